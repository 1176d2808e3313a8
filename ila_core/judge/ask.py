"""What every judge is: it gets questions about answers and gives a verdict on each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ila_core.config import Frozen
from ila_core.judge.prompts import JudgePrompts
from ila_core.judge.verdict import (
    Verdict,
    parse_preference,
    parse_rating,
    preferences,
    ratings,
)

if TYPE_CHECKING:
    from ila_core.judge.verdict_store import VerdictStore

ReadingName = Literal["grade", "preference"]


@dataclass(frozen=True)
class Reading:
    """How a reply becomes a number."""

    parse: Callable[[str], float | None]
    every: Callable[[str], list[float]]
    """All numbers of a reply, of which `parse` takes one."""
    choices: dict[str, float]
    """What a judge that writes nothing may choose, and what each is worth."""
    expected: bool
    """Whether such a judge says what it expects over these, or the likeliest of them."""


READINGS: dict[ReadingName, Reading] = {
    "grade": Reading(parse_rating, ratings, {str(n): float(n) for n in range(1, 11)}, True),
    "preference": Reading(parse_preference, preferences, {"A": 1.0, "B": 0.0, "C": 0.5}, False),
}


class Ask(Frozen):
    reading: ReadingName
    messages: tuple[dict[str, str], ...]
    repeat: int
    """From 0; the same question asked again."""


class Judge(Protocol):
    prompts: JudgePrompts

    @property
    def repeats(self) -> int:
        """How often each answer is judged; 1 where a second time would say the same."""
        ...

    @property
    def local(self) -> bool:
        """A model of one's own, whose grades never stand in the paper's column."""
        ...

    @property
    def identity(self) -> dict[str, Any]:
        """What two evaluations must have in common, prompts aside."""
        ...

    def verdicts(self, asks: Sequence[Ask], store: VerdictStore) -> list[Verdict]:
        """One per ask, in their order; what is in the store is not asked again."""
        ...
