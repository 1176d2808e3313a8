"""What a judge said about an answer, and how a grade is read from it."""

import re
from typing import Literal

from ila_core.config import Frozen

WhyNot = Literal["refused", "unparsable", "too_long"]
LOWEST, HIGHEST = 1.0, 10.0

_NUMBER = r"([0-9]+\.?[0-9]*)"
_RATINGS = re.compile(rf"\[\[{_NUMBER}\]\]"), re.compile(rf"\[{_NUMBER}\]")
"""FastChat's patterns: the second only where the first is nowhere."""
_PREFERENCES = re.compile(r"\[\[([ABC])\]\]")
_SHARES = {"A": 1.0, "B": 0.0, "C": 0.5}


class Verdict(Frozen):
    """One reply of a judge, or the lack of one."""

    grade: float | None
    """1 to 10; in a comparison 1 for the first answer, 0 for the second, 0.5 for a tie."""
    why_not: WhyNot | None = None
    """Why there is no grade: the judge refused, said none, or could not read so much."""
    several: bool = False
    """Whether the reply named different grades, of which the last one counts."""
    text: str = ""
    """The reply."""
    model: str = ""
    """The model's name in the reply."""
    fingerprint: str | None = None
    """The reply's `system_fingerprint`."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Over all attempts."""
    attempts: int = 1
    """How often it was asked for a grade."""


def parse_rating(text: str) -> float | None:
    """The last rating by FastChat's pattern, `[[5]]`, else `[5]`; `None` outside of 1 to 10.

    FastChat takes the first. Its prompts ask for an explanation and then the rating, so where a
    reply has several, the first ones are quotes: of the format, or of an answer that says which
    grade it wants. In a reply with one rating, both rules are the same.

    >>> parse_rating('It asks for "[[10]]", and is wrong. Rating: [[2]]')
    2.0
    """
    found = ratings(text)
    return found[-1] if found and LOWEST <= found[-1] <= HIGHEST else None


def ratings(text: str) -> list[float]:
    """Every rating, in order, by the first pattern that is found at all."""
    for pattern in _RATINGS:
        found = [float(number) for number in pattern.findall(text)]
        if found:
            return found
    return []


def parse_preference(text: str) -> float | None:
    """The last of `[[A]]`, `[[B]]` and `[[C]]`, as the first answer's share of the win."""
    found = preferences(text)
    return found[-1] if found else None


def preferences(text: str) -> list[float]:
    return [_SHARES[letter] for letter in _PREFERENCES.findall(text)]
