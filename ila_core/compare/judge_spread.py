"""How far a mean grade moves when the same judge is asked again about the same answers."""

import numpy as np

from ila_core.compare.results import Evaluation


def judged_again(
    evaluation: Evaluation, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """A percentile bootstrap interval of the value over repeats, the questions kept.

    The repeats of every answer are drawn anew. What other questions would do is apart, in
    `ila_core.compare.chance.interval`. With three repeats it is too narrow, as it draws from those
    it saw. `None` where no answer has two.
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
