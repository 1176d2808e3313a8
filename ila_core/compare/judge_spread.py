"""The variation of a mean grade when the same judge grades the same answers again."""

import numpy as np

from ila_core.compare.results import Evaluation


def judged_again(
    evaluation: Evaluation, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """Compute a percentile bootstrap interval of the value over repeated grades, items fixed.

    Each resample draws every answer's grades with replacement; `ila_core.compare.chance.interval`
    is the interval over items. With three grades per answer it is too narrow. `None` when no
    answer has two grades.
    """
    if all(len(item.repeats) < 2 for item in evaluation.items):
        return None
    rng = np.random.default_rng(seed)
    again = np.zeros(resamples)
    for item in evaluation.items:
        repeats = np.array(item.repeats or (item.value,))
        picked = repeats[rng.integers(len(repeats), size=(resamples, len(repeats)))]
        # The median of turn means, where the value is the mean of turn medians: the same with one
        # turn, and centred on the value with two.
        again += np.median(picked, axis=1) - np.median(repeats) + item.value
    tail = (1 - confidence) / 2
    low, high = np.quantile(again / len(evaluation.items), (tail, 1 - tail))
    return float(low), float(high)
