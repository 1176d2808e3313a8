"""A judge gets questions about answers and gives a verdict on each, once."""

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pydantic import ValidationError

from ila_core.config import Frozen
from ila_core.errors import CheckError
from ila_core.judge.prompts import JudgePrompts
from ila_core.judge.verdict import PREFERENCES, Verdict, preferences, ratings
from ila_core.keys import digest_of

ReadingName = Literal["grade", "preference"]


@dataclass(frozen=True)
class Reading:
    """Says how a reply becomes a number."""

    numbers: Callable[[str], list[float]]
    """All numbers of a reply, in order."""
    choices: dict[str, float]
    """What a judge that writes nothing may choose, with the worth of each choice."""
    expected: bool
    """Whether such a judge gives the expectation over these, or the likeliest of them."""

    def parse(self, text: str) -> float | None:
        """Return a reply's last number; `None` where it has none or one that is no choice's worth.

        FastChat takes the first. Its prompts ask for an explanation and then the rating, so where a
        reply has several, the first ones are quotes: of the format, or of an answer that says which
        grade it wants. In a reply with one rating, both rules are the same.

        >>> READINGS["grade"].parse('It asks for "[[10]]", and is wrong. Rating: [[2]]')
        2.0
        """
        found, allowed = self.numbers(text), self.choices.values()
        return found[-1] if found and min(allowed) <= found[-1] <= max(allowed) else None


READINGS: dict[ReadingName, Reading] = {
    "grade": Reading(ratings, {str(n): float(n) for n in range(1, 11)}, expected=True),
    "preference": Reading(preferences, PREFERENCES, expected=False),
}


class Ask(Frozen):
    reading: ReadingName
    messages: tuple[dict[str, str], ...]
    repeat: int
    """Counts from 0 how often the same question was asked before."""


class VerdictStore:
    """Stores verdicts by content: the same judge is not asked the same for the same time again.

    Each verdict has a file, written whole or not at all, so a crash loses only what was being
    asked, and processes may share a folder. (Two that ask the same at the same time both pay.)

    Args:
        folder: made when the first verdict comes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, judge: Mapping[str, object], ask: Ask) -> Verdict | None:
        """Return the verdict of the judge that `judge` describes, if it has given one.

        Raises:
            CheckError: the file is damaged.
        """
        path = self._path(judge, ask)
        try:
            return Verdict.model_validate(json.loads(path.read_bytes())["verdict"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise CheckError(
                f"{path}: damaged; delete it, and the judge is asked for this verdict again"
            ) from error

    def put(self, judge: Mapping[str, object], ask: Ask, verdict: Verdict) -> None:
        """Store `verdict`, with what was asked beside it for a reader."""
        path = self._path(judge, ask)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"judge": judge, "ask": ask.model_dump(), "verdict": verdict.model_dump()}
        temporary = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.tmp")
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
        temporary.replace(path)

    def _path(self, judge: Mapping[str, object], ask: Ask) -> Path:
        digest = digest_of([judge, ask.model_dump()])
        return self._folder / digest[:2] / f"{digest}.json"


class Judge(Protocol):
    prompts: JudgePrompts

    @property
    def repeats(self) -> int:
        """Return how often each answer is judged; 1 where a second time would say the same."""

    @property
    def local(self) -> bool:
        """Return whether it is a model of one's own: its grades are not in the paper's column."""

    @property
    def identity(self) -> Mapping[str, object]:
        """Return what two evaluations must have in common, prompts aside."""

    def verdicts(self, asks: Sequence[Ask], store: VerdictStore) -> list[Verdict]:
        """Return one per ask, in their order; what is in the store is not asked again."""
