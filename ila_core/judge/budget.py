"""Limits of requests and tokens, and a forecast of both."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ila_core.config import Frozen
from ila_core.errors import CheckError
from ila_core.inference.generate import CHARACTERS_PER_TOKEN
from ila_core.judge.prompts import Messages

KEPT = "what was judged is kept and not asked again"


class Forecast(Frozen):
    """Counts the requests and tokens still to be spent if no request fails."""

    requests: int
    kept: int
    """Verdicts that are stored already."""
    prompt_tokens: int
    """An estimate: about 4 characters make a token."""
    most_completion_tokens: int
    """The sum if every reply is as long as it may be."""

    def __add__(self, other: Forecast) -> Forecast:
        mine, its = self.model_dump(), other.model_dump()
        return Forecast(**{name: mine[name] + its[name] for name in mine})

    def __str__(self) -> str:
        return (
            f"{self.requests:,} requests ({self.kept:,} verdicts are there), about "
            f"{self.prompt_tokens:,} tokens of prompts and at most {self.most_completion_tokens:,} "
            "of replies"
        )


def forecast(asked: Sequence[Messages], kept: int, max_tokens: int) -> Forecast:
    """Add up what `asked` takes, beside `kept` verdicts that are stored."""
    return Forecast(
        requests=len(asked),
        kept=kept,
        prompt_tokens=sum(map(estimated, asked)),
        most_completion_tokens=len(asked) * max_tokens,
    )


def estimated(messages: Messages) -> int:
    """Estimate the tokens of a prompt."""
    return sum(len(message["content"]) for message in messages) // CHARACTERS_PER_TOKEN + 1


@dataclass
class Spending:
    """Holds one reply's tokens, which its reader fills in once they are known."""

    tokens: int = 0


class Budget:
    """Limits requests and tokens; threads share it.

    A prompt is sent only if it and the longest reply still fit, so the token budget is never
    exceeded by more than an estimate is wrong. A request that failed counts as one, without tokens:
    a server that failed did not say what it used.

    Args:
        requests: most requests, failed ones included; `None` is no limit.
        tokens: most tokens, of prompts and replies together.
    """

    def __init__(self, requests: int | None, tokens: int | None) -> None:
        self._requests, self._tokens = requests, tokens
        self._begun = self._used = self._reserved = 0
        self._changed = threading.Condition()

    def count_request(self) -> None:
        """Count one HTTP request that is about to be sent.

        Raises:
            CheckError: the requests are used up.
        """
        with self._changed:
            if self._requests is not None and self._begun >= self._requests:
                raise CheckError(
                    f"the judge's budget of {self._requests} requests is used up; {KEPT}: run "
                    "again, or raise the budget"
                )
            self._begun += 1

    @contextmanager
    def tokens(self, most: int) -> Iterator[Spending]:
        """Reserve `most` tokens for one prompt and its reply, until the spending is known.

        Raises:
            CheckError: the tokens are used up.
        """
        with self._changed:
            # Others under way may use less than they have reserved.
            while self._reserved and self._left() < most and self._used_left() >= most:
                self._changed.wait()
            if self._left() < most:
                raise CheckError(
                    f"the judge's budget of {self._tokens} tokens is used up: {self._used} are "
                    f"spent, and the next request may take {most}; {KEPT}: run again, or raise "
                    "the budget"
                )
            self._reserved += most
        spending = Spending()
        try:
            yield spending
        finally:
            with self._changed:
                self._reserved -= most
                self._used += spending.tokens
                self._changed.notify_all()

    def __str__(self) -> str:
        """Say what is left of it."""
        requests = None if self._requests is None else self._requests - self._begun
        tokens = None if self._tokens is None else self._tokens - self._used
        return f"{_number(requests)} requests and {_number(tokens)} tokens"

    def _used_left(self) -> float:
        return float("inf") if self._tokens is None else self._tokens - self._used

    def _left(self) -> float:
        return self._used_left() - self._reserved


def _number(limit: int | None) -> str:
    return "any number of" if limit is None else f"{max(0, limit):,}"
