"""A judge behind an OpenAI-compatible endpoint: GPT-4 as published, or a server of one's own.

    >>> judge = OpenAiJudge(OpenAiJudgeSettings(model="gpt-4"), JudgePrompts.load(path))
    >>> judge.verdicts(asks, VerdictStore(folder))

Every verdict is stored when it comes, so whatever ends the judging, a crash or the budget, what
was paid for stays.
"""

import logging
import os
import random
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from typing import Any

from ila_core.config import JudgeLimits, OpenAiJudgeSettings
from ila_core.errors import CheckError
from ila_core.judge.ask import READINGS, Ask, VerdictStore
from ila_core.judge.budget import KEPT, Budget, Forecast, estimated, forecast
from ila_core.judge.openai_endpoint import Endpoint, Passing, Reply, TooLong
from ila_core.judge.prompts import JudgePrompts, Messages
from ila_core.judge.verdict import Verdict

log = logging.getLogger("ila")

LONGEST_BACK_OFF = 60.0
"""Seconds; 1, 2, 4, ... up to this, less a random quarter."""
LONGEST_RETRY_AFTER = 600.0
"""A server that asks for more patience is a reason to stop and say so."""

_VERSION = re.compile(r"-(\d{3,8}|\d{4}-\d{2}-\d{2}|v\d+(\.\d+)*)")


class OpenAiJudge:
    """
    Args:
        settings: identity.
        prompts: what it is asked.
        limits: runtime settings, which are no part of a verdict.
        budget: what all that is asked may take, where several judges share one; by default one of
            its own, by `limits`.
        environment: holds the key and the base URL (`ila_core.judge.openai_endpoint`); read
            when there is something to ask.
        wait: how to wait some seconds, for tests; by default until then or until another request
            has failed for good.
    """

    def __init__(
        self,
        settings: OpenAiJudgeSettings,
        prompts: JudgePrompts,
        *,
        limits: JudgeLimits | None = None,
        budget: Budget | None = None,
        environment: Mapping[str, str] = os.environ,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self.settings, self.prompts = settings, prompts
        self.limits = limits or JudgeLimits()
        self.budget = budget or Budget(self.limits.requests, self.limits.tokens)
        self._environment, self._wait = environment, wait

    @property
    def repeats(self) -> int:
        return self.settings.repeats

    @property
    def local(self) -> bool:
        return self.settings.local

    @property
    def identity(self) -> dict[str, Any]:
        return self.settings.model_dump(exclude={"prompts"})

    @property
    def _asked_as(self) -> dict[str, Any]:
        """What a single verdict depends on: more repeats or attempts do not lose those there."""
        return {
            "kind": "openai",
            "model": self.settings.model,
            "max_tokens": self.settings.max_tokens,
            "temperature": self.settings.temperature,
            "local": self.settings.local,
        }

    def forecast(self, asks: Sequence[Ask], store: VerdictStore) -> Forecast:
        """What `verdicts` would ask, less what is in the store."""
        left = [ask.messages for ask in asks if self._open(store.get(self._asked_as, ask))]
        return forecast(left, len(asks) - len(left), self.settings.max_tokens)

    def verdicts(self, asks: Sequence[Ask], store: VerdictStore) -> list[Verdict]:
        """One per ask, in their order.

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
        endpoint = Endpoint(self._environment, timeout=self.limits.timeout)
        session = _Session(self, endpoint, store)
        found = {}
        try:
            with ThreadPoolExecutor(self.limits.concurrency) as pool:
                futures = {pool.submit(session.ask, ask, before[i]): i for i, ask in asks.items()}
                try:
                    for future in as_completed(futures):
                        with suppress(_Stopped):  # another one says why
                            found[futures[future]] = future.result()
                finally:
                    # What is under way is paid for: the pool waits for it, and it is stored.
                    session.stop.set()
        finally:
            endpoint.close()
        return found

    def _open(self, verdict: Verdict | None) -> bool:
        """Whether there is something left to ask."""
        if verdict is None:
            return True
        asked_again = verdict.why_not in ("refused", "unparsable")
        return asked_again and verdict.attempts < self.settings.attempts


class _Stopped(Exception):
    """Another request has failed for good."""


class _Session:
    """One call of `verdicts`, shared by its threads."""

    def __init__(self, judge: OpenAiJudge, endpoint: Endpoint, store: VerdictStore) -> None:
        self._judge, self._endpoint, self._store = judge, endpoint, store
        self._budget = judge.budget
        self._random = random.Random()
        self.stop = threading.Event()
        """Set once a request has failed for good: none begins any more."""
        self._wait = judge._wait or self.stop.wait

    def ask(self, ask: Ask, verdict: Verdict | None) -> Verdict:
        """Until there is a grade or the attempts are used up; every attempt is stored."""
        try:
            while verdict is None or self._judge._open(verdict):
                verdict = self._attempt(ask, verdict)
                self._store.put(self._judge._asked_as, ask, verdict)
        except BaseException:
            self.stop.set()
            raise
        return verdict

    def _attempt(self, ask: Ask, before: Verdict | None) -> Verdict:
        attempts = before.attempts + 1 if before else 1
        try:
            reply = self._request(ask.messages)
        except TooLong as error:
            return Verdict(grade=None, why_not="too_long", text=str(error), attempts=attempts)
        asked = self._judge.settings.model
        if not same_model(asked, reply.model):
            raise CheckError(
                f"the judge at {self._endpoint.host} was asked for {asked!r} and the reply names "
                f"{reply.model or 'no model'!r}, so it is not judged by it; ask for the model by "
                f"the name it gives itself. {KEPT.capitalize()}"
            )
        prompt, completion = self._tokens(ask.messages, reply)
        reading = READINGS[ask.reading]
        # A reply that was cut has not come to its verdict: a grade that stands in it is a quote.
        grade = None if reply.cut or reply.refused else reading.parse(reply.text)
        return Verdict(
            grade=grade,
            why_not="refused" if reply.refused else None if grade is not None else "unparsable",
            several=len(set(reading.every(reply.text))) > 1,
            text=reply.text,
            model=reply.model,
            fingerprint=reply.fingerprint,
            prompt_tokens=prompt + (before.prompt_tokens if before else 0),
            completion_tokens=completion + (before.completion_tokens if before else 0),
            attempts=attempts,
        )

    def _request(self, messages: Messages) -> Reply:
        """The reply, after failures that pass."""
        settings, limits = self._judge.settings, self._judge.limits
        most = estimated(messages) + settings.max_tokens
        for retry in range(limits.max_retries + 1):
            try:
                with self._budget.request(most) as spending:
                    if self.stop.is_set():
                        raise _Stopped
                    reply = self._endpoint.complete(
                        messages,
                        model=settings.model,
                        max_tokens=settings.max_tokens,
                        temperature=settings.temperature,
                    )
                    spending.tokens = sum(self._tokens(messages, reply))
                return reply
            except Passing as failure:
                if retry == limits.max_retries:
                    raise CheckError(
                        f"the judge at {self._endpoint.host} failed {retry + 1} times in a row, at "
                        f"last with {failure}; {KEPT}: run again once it answers"
                    ) from None
                self._wait(self._pause(retry, failure))
        raise AssertionError("the last retry returns or raises")

    def _pause(self, retry: int, failure: Passing) -> float:
        """Seconds before the next try."""
        if failure.after is not None:
            if failure.after > LONGEST_RETRY_AFTER:
                raise CheckError(
                    f"the judge at {self._endpoint.host} asks to wait {failure.after:.0f} seconds "
                    f"({failure}); {KEPT}: run again then"
                )
            seconds = failure.after
        else:
            seconds = min(2.0**retry, LONGEST_BACK_OFF) * self._random.uniform(0.75, 1)
        log.info("judge %s: %s; again in %.1f s", self._judge.settings.model, failure, seconds)
        return seconds

    def _tokens(self, messages: Messages, reply: Reply) -> tuple[int, int]:
        """Return tokens of prompt and reply; estimated where the server does not give them."""
        if reply.tokens is not None:
            return reply.tokens
        return estimated(messages), estimated(({"content": reply.text},))


def same_model(asked: str, replied: str) -> bool:
    """Whether the reply's name is the one asked for, or a dated or numbered version of it.

    >>> same_model("gpt-4", "gpt-4-0613"), same_model("gpt-4", "gpt-4-turbo")
    (True, False)
    """
    stem = asked.removesuffix("-latest")
    if replied == asked:
        return True
    return replied.startswith(stem) and _VERSION.fullmatch(replied[len(stem) :]) is not None
