"""The variance that fine-tuning seeds add to a difference between arms."""

import math

from ila_core.compare.align import Aligned
from ila_core.compare.bootstrap import Floats
from ila_core.compare.quantiles import half_width
from ila_core.config import Frozen


class OverSeeds(Frozen):
    """The interval of a difference over fine-tuning seeds and items."""

    low: float
    high: float
    variance_a: float
    """Variance of the arm's mean over its seeds; 0 for an arm with one seed."""
    variance_b: float
    by_item_a: float
    """The part of `variance_a` that more items reduce: the interaction of seeds and items."""
    by_item_b: float


def over_seeds(aligned: Aligned, difference: float, error: float, each: float) -> OverSeeds | None:
    """Compute Student's interval from the summed variances over items and each arm's seeds.

    A bootstrap over so few seeds is far too narrow: with two seeds per arm and no other variance,
    95 % intervals covered the true value in 66 % of 1,500 simulations. Student's interval with the
    degrees of freedom of Welch and Satterthwaite covered it in 94 to 98 %, whatever share of the
    variance came from seeds. The interaction of seed and item counts in both variances, which
    makes the interval wider. `None` when no arm has two seeds.
    """
    if max(len(aligned.a), len(aligned.b)) < 2:
        return None
    of_a, by_item_a = _variance_of_mean(aligned.a, aligned.weights)
    of_b, by_item_b = _variance_of_mean(aligned.b, aligned.weights)
    items = (error**2, len(aligned.weights))
    half = half_over_seeds(each, items, (of_a, len(aligned.a)), (of_b, len(aligned.b)))
    return OverSeeds(
        low=difference - half,
        high=difference + half,
        variance_a=of_a,
        variance_b=of_b,
        by_item_a=by_item_a,
        by_item_b=by_item_b,
    )


def half_over_seeds(confidence: float, *parts: tuple[float, int]) -> float:
    """Return half the interval of a sum of independent estimates (Welch and Satterthwaite).

    Args:
        parts: variance of each estimate, and the number of items or seeds behind it.
    """
    total = math.fsum(variance for variance, _ in parts)
    spent = math.fsum(variance**2 / (n - 1) for variance, n in parts if variance)
    return half_width(confidence, total**2 / spent if spent else math.inf) * math.sqrt(total)


def _variance_of_mean(values: Floats, weights: Floats) -> tuple[float, float]:
    """Return the variance of an arm's mean over seeds, and the part that more items reduce.

    That part is the interaction of seed and item in a two-way layout (residuals of both means).
    """
    seeds, n = values.shape
    if seeds == 1:
        return 0.0, 0.0
    by_seed = values.sum(axis=1) / weights.sum()
    whole = float(by_seed.var(ddof=1)) / seeds
    apart = values - values.mean(axis=0)
    residual = apart - apart.sum(axis=1, keepdims=True) / weights.sum() * weights
    by_item = n / (n - 1) * float((residual**2).sum()) / (seeds - 1) / float(weights.sum()) ** 2
    return whole, min(whole, by_item / seeds)
