"""Importance scorers: one file each, and one line in `SCORERS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ila_core.ranking import Layer
from ila_core.scorers import size


@dataclass(frozen=True)
class Scorer:
    title: str
    """How tables and figures call it."""
    from_shapes: Callable[[Sequence[Layer]], dict[str, float]] | None
    """Scores from names and shapes alone; `None`: measured on a trained adapter, by stage 2."""


SCORERS: dict[str, Scorer] = {
    "ila": Scorer("ILA gates", from_shapes=None),  # ila_core.gates, the stage-2 step
    "size": Scorer("matrix size", from_shapes=size.score),
}
