"""Finished evaluations."""

from dataclasses import dataclass

from ila_core.compare.results import Evaluation


@dataclass(frozen=True)
class Measured:
    """One model's evaluation on one benchmark."""

    arm: str
    seed: int | None
    key: str
    result: Evaluation
