"""Continuations and a file of their scores: a kill loses at most one forward pass."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ila_core.errors import CheckError
from ila_core.inference.append_log import Damaged, read_appended

Pair = tuple[tuple[int, ...], tuple[int, ...]]
"""The inputs and targets of a `Continuation`."""


@dataclass(frozen=True, slots=True)
class Continuation:
    inputs: tuple[int, ...]
    """Token ids that the model reads: the context and the continuation without its last token."""
    targets: tuple[int, ...]
    """Token ids of the continuation, predicted at the last `len(targets)` positions of `inputs`."""
    family: str = ""
    """Continuations of one family may share a prefix."""

    @classmethod
    def of(
        cls, context: Sequence[int], continuation: Sequence[int], most: int, family: str = ""
    ) -> Continuation:
        """Truncate the context on the left to a model's `most` tokens, as lm-eval does.

        Raises:
            CheckError: when the continuation alone is longer.
        """
        if not 0 < len(continuation) <= most:
            raise CheckError(
                f"an answer of {len(continuation)} tokens does not fit a context of {most}"
            )
        read = (*context, *continuation)[-(most + 1) : -1]
        return cls(read, tuple(continuation), family)


class Scores:
    """The finished scores, in memory and in a file to which each pass appends its own.

    Args:
        continuations: all that are requested; their digest names the file.
        folder: folder of the file; `None` writes none.

    Raises:
        CheckError: when the file is damaged.
    """

    def __init__(self, continuations: Sequence[Continuation], folder: Path | None) -> None:
        self.done: dict[Pair, float] = {}
        self._path: Path | None = None
        self._file: IO[str] | None = None
        if folder is None:
            return
        pairs = list(dict.fromkeys((c.inputs, c.targets) for c in continuations))
        self._numbers = {pair: number for number, pair in enumerate(pairs)}
        self._path = folder / f"scores-{_digest(pairs)[:12]}.jsonl"
        try:
            for row in read_appended(self._path):
                self.done.update((pairs[int(number)], float(value)) for number, value in row)
        except (Damaged, IndexError, TypeError, ValueError) as error:
            raise CheckError(
                f"{self._path}: damaged; delete it, and its scores are computed anew"
            ) from error

    def __enter__(self) -> None:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="ascii")

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, scores: Mapping[Pair, float]) -> None:
        """Record the scores of one pass, in nats."""
        self.done.update(scores)
        if self._file is not None:
            row = [[self._numbers[pair], value] for pair, value in scores.items()]
            # Without fsync, which would take as long as a pass of a small model: a kill of this
            # process loses nothing, and the machine's only what can be computed again.
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()


def _digest(pairs: Sequence[Pair]) -> str:
    digest = hashlib.sha256()
    for pair in pairs:
        for tokens in pair:
            digest.update(array("q", (len(tokens), *tokens)).tobytes())
    return digest.hexdigest()
