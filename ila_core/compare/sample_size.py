"""Sample size: how many items or seeds would decide an undecided requirement.

It extrapolates from the observed difference and variances. With standard error `e` over `n` items,
`n * ((z + z_power) * e / gap)^2` items separate a difference from a margin `gap` away with
probability `POWER`; without `z_power` the probability would be one half. Over seeds, Student's
quantile takes the place of `z`, and the number is found by search.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Literal, NamedTuple

from ila_core.compare.arms import Compared
from ila_core.compare.seed_variance import half_over_seeds
from ila_core.config import Frozen

POWER = 0.8
_MOST = 10**7
"""Larger numbers of items or seeds are not reported."""


class Needed(Frozen):
    """Total numbers of items and seeds, those already measured included, that would decide."""

    items: int
    seeds: int
    """Seeds of each arm that has several, or of the candidate when it has too few."""
    bottleneck: Literal["items", "seeds", "both"]


def needed(found: Compared, gap: float, confidence: float) -> Needed | None:
    """Return the fewest items, or seeds when seeds vary more, or both when neither suffices alone.

    Args:
        gap: distance from the difference to the margin, in the benchmark's unit.
        confidence: confidence of this one interval.

    Returns:
        `None` when the difference is so near the margin that more than `_MOST` would be needed.
    """
    n, k = found.items, max(len(found.by_seed_a), len(found.by_seed_b))
    of_items, arms = found.standard_error**2, _arms(found)
    of_seeds = math.fsum(arm.by_seed for arm in arms)

    def settles(items: int, seeds: int | None, gap: float = gap) -> bool:
        """Return whether so many are enough; with `seeds=None`, over items alone."""
        parts = [(of_items * n / items, items)]
        if seeds is not None:
            parts += [arm.at(n / items, max(seeds, arm.seeds)) for arm in arms]
        return _reach(confidence, parts) <= gap

    by_items = _fewest(lambda items: settles(items, k), above=n)
    by_seeds = _fewest(lambda seeds: settles(n, seeds), above=k) if arms else None
    if by_seeds is not None and (by_items is None or of_seeds > of_items):
        return Needed(items=n, seeds=by_seeds, bottleneck="seeds")
    if by_items is not None:
        return Needed(items=by_items, seeds=k, bottleneck="items")
    # Half of the variance that the gap allows to the items, the rest to the seeds.
    items = _fewest(lambda items: settles(items, None, gap / math.sqrt(2)), above=n)
    if items is None or not arms:
        return None
    seeds = _fewest(lambda seeds: settles(items, seeds), above=k)
    return None if seeds is None else Needed(items=items, seeds=seeds, bottleneck="both")


class _Arm(NamedTuple):
    """Variance of an arm's mean over its seeds: the part that more items reduce, and the rest."""

    by_seed: float
    by_item: float
    seeds: int

    def at(self, items_ratio: float, seeds: int) -> tuple[float, int]:
        """Return the variance with other numbers of items and seeds, and the number of seeds."""
        return (self.by_seed + self.by_item * items_ratio) * self.seeds / seeds, seeds


def _arms(found: Compared) -> list[_Arm]:
    """Return the arms that have several seeds."""
    if (x := found.over_seeds) is None:
        return []
    arms = [
        _Arm(x.variance_a - x.by_item_a, x.by_item_a, len(found.by_seed_a)),
        _Arm(x.variance_b - x.by_item_b, x.by_item_b, len(found.by_seed_b)),
    ]
    return [arm for arm in arms if arm.seeds > 1]


def _reach(confidence: float, parts: Sequence[tuple[float, int]]) -> float:
    """Return the distance of a margin that an interval excludes with probability `POWER`."""
    deviation = math.sqrt(math.fsum(variance for variance, _ in parts))
    return half_over_seeds(confidence, *parts) + NormalDist().inv_cdf(POWER) * deviation


def _fewest(enough: Callable[[int], bool], *, above: int) -> int | None:
    """Search the least number greater than `above` that is enough; `enough` is monotone."""
    numbers = range(above + 1, _MOST + 1)
    at = bisect_left(numbers, True, key=enough)
    return numbers[at] if at < len(numbers) else None
