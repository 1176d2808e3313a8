"""A verdict is what a judge says about an answer; a grade is read from its text."""

import re
from typing import Literal

from ila_core.config import Frozen

WhyNot = Literal["refused", "unparsable", "too_long"]
PREFERENCES = {"A": 1.0, "B": 0.0, "C": 0.5}
"""The first answer's share of the win."""

_NUMBER = r"([0-9]+\.?[0-9]*)"
_RATINGS = re.compile(rf"\[\[{_NUMBER}\]\]"), re.compile(rf"\[{_NUMBER}\]")
"""FastChat's patterns: the second counts only where the first is nowhere."""
_PREFERENCE = re.compile(r"\[\[([ABC])\]\]")


class Verdict(Frozen):
    """Holds one reply of a judge, or says why there is none."""

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
    """Both count over all attempts."""
    attempts: int = 1
    """How often it was asked for a grade."""


def ratings(text: str) -> list[float]:
    """Return every `[[5]]` of `text`, in order; where there is none, every `[5]`."""
    for pattern in _RATINGS:
        found = [float(number) for number in pattern.findall(text)]
        if found:
            return found
    return []


def preferences(text: str) -> list[float]:
    """Return the worth of every `[[A]]`, `[[B]]` and `[[C]]` of `text`, in order."""
    return [PREFERENCES[letter] for letter in _PREFERENCE.findall(text)]
