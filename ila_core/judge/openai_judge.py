"""The judge is a model behind an OpenAI-compatible endpoint: GPT-4, or a server of one's own.

    >>> judge = OpenAiJudge(OpenAiJudgeSettings(model="gpt-4"), JudgePrompts.load(path))
    >>> judge.verdicts(asks, VerdictStore(folder))

Every verdict is stored when it comes, so whatever ends the judging, a crash or the budget, what
was paid for stays.
"""

import logging
import os
import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, suppress

from ila_core.config import JudgeLimits, OpenAiJudgeSettings
from ila_core.errors import CheckError
from ila_core.judge.ask import READINGS, Ask, VerdictStore
from ila_core.judge.budget import KEPT, Budget, Forecast, estimated, forecast
from ila_core.judge.openai_endpoint import Endpoint, Reply, TooLong
from ila_core.judge.prompts import JudgePrompts, Messages
from ila_core.judge.verdict import Verdict

log = logging.getLogger("ila")

_VERSION = re.compile(r"-(\d{3,8}|\d{4}-\d{2}-\d{2}|v\d+(\.\d+)*)")


class OpenAiJudge:
    """Judges by requests to an endpoint.

    Args:
        settings: identity.
        prompts: what it is asked.
        limits: runtime settings, which are no part of a verdict.
        budget: what all that is asked may take, where several judges share one; by default one of
            its own, by `limits`.
        environment: holds the key and the base URL (`ila_core.judge.openai_endpoint`); read
            when there is something to ask.
    """

    def __init__(
        self,
        settings: OpenAiJudgeSettings,
        prompts: JudgePrompts,
        *,
        limits: JudgeLimits | None = None,
        budget: Budget | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.settings, self.prompts = settings, prompts
        self.limits = limits or JudgeLimits()
        self.budget = budget or Budget(self.limits.requests, self.limits.tokens)
        self.repeats, self.local = settings.repeats, settings.local
        self.identity = settings.model_dump(exclude={"prompts"})
        # What a single verdict depends on: more repeats or attempts do not lose those there.
        asked_as = {"kind", "model", "max_tokens", "temperature", "local"}
        self._asked_as = settings.model_dump(include=asked_as)
        self._environment = environment

    def forecast(self, asks: Sequence[Ask], store: VerdictStore) -> Forecast:
        """Count what `verdicts` would ask, less what is in the store."""
        left = [ask.messages for ask in asks if self._open(store.get(self._asked_as, ask))]
        return forecast(left, len(asks) - len(left), self.settings.max_tokens)

    def verdicts(self, asks: Sequence[Ask], store: VerdictStore) -> list[Verdict]:
        """Return one per ask, in their order.

        Once a request has failed for good, or on Ctrl-C, no other begins. `verdicts` then waits for
        the requests under way, whose verdicts are stored, and for threads that sleep before a
        retry: 8 seconds at most, or two minutes where a server asked for that.

        Raises:
            UserError: no key, or a server that does not accept it, the model or the request.
            CheckError: a server that fails, or is another model; a quota or budget used up.
        """
        found = {i: store.get(self._asked_as, ask) for i, ask in enumerate(asks)}
        left = [i for i, verdict in found.items() if self._open(verdict)]
        if left:
            messages = [asks[i].messages for i in left]
            ahead = forecast(messages, len(asks) - len(left), self.settings.max_tokens)
            log.info("judge %s: %s; left are %s", self.settings.model, ahead, self.budget)
            found |= self._ask_all({i: asks[i] for i in left}, found, store)
        return [verdict for i in range(len(asks)) if (verdict := found[i]) is not None]

    def _ask_all(
        self, asks: dict[int, Ask], before: Mapping[int, Verdict | None], store: VerdictStore
    ) -> dict[int, Verdict]:
        session = _Session(self, store)
        found = {}
        with closing(session.endpoint), ThreadPoolExecutor(self.limits.concurrency) as pool:
            try:
                futures = {pool.submit(session.ask, ask, before[i]): i for i, ask in asks.items()}
                for future in as_completed(futures):
                    with suppress(_Stopped):  # another one says why
                        found[futures[future]] = future.result()
            finally:
                session.stop.set()
        return found

    def _open(self, verdict: Verdict | None) -> bool:
        """Return whether there is something left to ask."""
        if verdict is None:
            return True
        asked_again = verdict.why_not in ("refused", "unparsable")
        return asked_again and verdict.attempts < self.settings.attempts


class _Stopped(Exception):
    """Another request has failed for good."""


class _Session:
    """Asks for one call of `verdicts`; its threads share it."""

    def __init__(self, judge: OpenAiJudge, store: VerdictStore) -> None:
        self._judge, self._store = judge, store
        self.endpoint = Endpoint(judge._environment, judge.limits, before=self._begin)
        self.stop = threading.Event()
        """Set once a request has failed for good: no other begins, and no retry."""

    def _begin(self) -> None:
        """Count a request that is about to be sent, or prevent it."""
        if self.stop.is_set():
            raise _Stopped
        self._judge.budget.count_request()

    def ask(self, ask: Ask, verdict: Verdict | None) -> Verdict:
        """Ask until there is a grade or the attempts are used up; store every attempt."""
        try:
            while verdict is None or self._judge._open(verdict):
                verdict = self._attempt(ask, verdict)
                self._store.put(self._judge._asked_as, ask, verdict)
        except BaseException:
            self.stop.set()
            raise
        return verdict

    def _attempt(self, ask: Ask, before: Verdict | None) -> Verdict:
        settings = self._judge.settings
        attempts = before.attempts + 1 if before else 1
        most = estimated(ask.messages) + settings.max_tokens
        try:
            with self._judge.budget.tokens(most) as spending:
                reply = self.endpoint.complete(ask.messages, settings)
                prompt, completion = _tokens(ask.messages, reply)
                spending.tokens = prompt + completion
        except TooLong as error:
            return Verdict(grade=None, why_not="too_long", text=str(error), attempts=attempts)
        model = reply.model or ""
        if not same_model(settings.model, model):
            raise CheckError(
                f"the judge at {self.endpoint.host} was asked for {settings.model!r} and the reply "
                f"names {model or 'no model'!r}, so it is not judged by it; ask for the model by "
                f"the name it gives itself. {KEPT.capitalize()}"
            )
        reading = READINGS[ask.reading]
        # A reply that was cut has not come to its verdict: a grade that stands in it is a quote.
        grade = None if reply.cut or reply.refused else reading.parse(reply.text)
        return Verdict(
            grade=grade,
            why_not="refused" if reply.refused else None if grade is not None else "unparsable",
            several=len(set(reading.numbers(reply.text))) > 1,
            text=reply.text,
            model=model,
            fingerprint=reply.system_fingerprint or None,
            prompt_tokens=prompt + (before.prompt_tokens if before else 0),
            completion_tokens=completion + (before.completion_tokens if before else 0),
            attempts=attempts,
        )


def _tokens(messages: Messages, reply: Reply) -> tuple[int, int]:
    """Return tokens of prompt and reply; estimated where the server does not give them."""
    if reply.usage is not None:
        return reply.usage.prompt_tokens, reply.usage.completion_tokens
    return estimated(messages), estimated(({"content": reply.text},))


def same_model(asked: str, replied: str) -> bool:
    """Return whether the reply names the model asked for, or a dated or numbered version of it.

    >>> same_model("gpt-4", "gpt-4-0613"), same_model("gpt-4", "gpt-4-turbo")
    (True, False)
    """
    stem = asked.removesuffix("-latest")
    if replied == asked:
        return True
    return replied.startswith(stem) and _VERSION.fullmatch(replied[len(stem) :]) is not None
