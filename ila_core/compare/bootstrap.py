"""The paired bootstrap over items that both models answer."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_CHUNK = 2**22  # indices drawn at a time, so that memory does not grow with the resamples


def paired_bootstrap(
    values_a: Floats,
    values_b: Floats,
    weights: Floats,
    *,
    resamples: int,
    confidence: float,
    seed: int,
) -> tuple[float, float, float]:
    """Compute the weighted mean of a - b, and its percentile interval over resampled items.

    Args:
        values_a: one sum per item, such as a conversation's loss in nats; shape (items,).
        values_b: the other model's sums, in the same order.
        weights: one weight per item, such as its number of tokens in the loss.
    """
    n = len(weights)
    gap = values_a - values_b
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, rows := max(1, _CHUNK // n)):
        drawn = rng.integers(n, size=(min(rows, resamples - start), n))
        means.append(gap[drawn].sum(axis=1) / weights[drawn].sum(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), (tail, 1 - tail))
    return float(gap.sum() / weights.sum()), float(low), float(high)
