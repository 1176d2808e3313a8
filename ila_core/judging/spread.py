"""How sure a mean grade is: over other questions, and over the same judge asked again."""

from __future__ import annotations

from ila_core.config import Frozen
from ila_core.evaluation.result import Evaluation


class Spread(Frozen):
    """Percentile bootstrap intervals of the mean grade, two sources of chance apart."""

    questions: tuple[float, float]
    """Other questions of the same kind: items drawn anew, each with its grade."""
    repeats: tuple[float, float] | None
    """The judge asked again: the repeats of every answer drawn anew, the questions kept. `None`
    where no answer has two. With three repeats it is too narrow, as it draws from those it saw."""


def spread(
    evaluation: Evaluation, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Spread:
    """Both intervals of `evaluation.value`."""
    import numpy as np

    rng = np.random.default_rng(seed)
    values = np.array([item.value for item in evaluation.items])
    tail = (1 - confidence) / 2

    def interval(means: object) -> tuple[float, float]:
        low, high = np.quantile(np.asarray(means), (tail, 1 - tail))
        return float(low), float(high)

    drawn = values[rng.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    again = np.zeros(resamples)
    for item in evaluation.items:
        repeats = np.array(item.repeats or (item.value,))
        picked = repeats[rng.integers(len(repeats), size=(resamples, len(repeats)))]
        # The median of turn means, where the value is the mean of turn medians: the same with one
        # turn, and centred on the value with two.
        again += np.median(picked, axis=1) - np.median(repeats) + item.value
    several = any(len(item.repeats) > 1 for item in evaluation.items)
    return Spread(
        questions=interval(drawn),
        repeats=interval(again / len(values)) if several else None,
    )
