"""What a model is measured by: one file per benchmark, one line in `BENCHMARKS`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ila_core.benchmarks.held_out_loss import Evaluation, HeldOutLoss


class Benchmark(Protocol):
    name: str
    version: int
    """Raised when the same model would get another number."""
    unit: str

    def chance(self, vocab_size: int) -> float:
        """What a model that guesses gets."""
        ...

    def run(
        self, model: Any, rows: Sequence[Any], *, eval_batch: int, progress: bool = False
    ) -> Evaluation: ...


BENCHMARKS: dict[str, Benchmark] = {"held_out_loss": HeldOutLoss()}
