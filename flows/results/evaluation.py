"""What was evaluated."""

from dataclasses import dataclass

from ila_core.compare.results import Evaluation


@dataclass(frozen=True)
class Measured:
    """One evaluation of one model."""

    arm: str
    seed: int | None
    key: str
    result: Evaluation
