"""The interval of one evaluation, and whether it differs from random guessing."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ila_core.compare.bootstrap import paired_bootstrap
from ila_core.compare.results import Evaluation

RESAMPLES = 10_000


def is_accuracy(evaluation: Evaluation) -> bool:
    """Return whether every item is 0 or 1 with equal weight, and no grade of a judge."""
    return all(x.weight == 1 and x.value in (0, 1) and not x.repeats for x in evaluation.items)


def interval(
    evaluation: Evaluation, confidence: float, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Compute the value's interval over items: Wilson's for accuracies, else a bootstrap.

    Wilson's score interval (1927) keeps its coverage near 0 and 1 and for few items, where the
    normal one does not (Brown, Cai and DasGupta 2001, doi:10.1214/ss/1009213286).
    """
    if is_accuracy(evaluation):
        found = _right(evaluation).proportion_ci(confidence, method="wilson")
        return float(found.low), float(found.high)
    values = np.array([x.value for x in evaluation.items])
    weights = np.array([x.weight for x in evaluation.items])
    _, low, high = paired_bootstrap(
        values,
        np.zeros_like(values),
        weights,
        resamples=resamples,
        confidence=confidence,
        seed=seed,
    )
    return low, high


def at_chance(evaluation: Evaluation, confidence: float) -> bool:
    """Return whether the value does not differ from random guessing, in either direction.

    An accuracy is tested by the exact two-sided binomial test (all outcomes at most as likely as
    the observed one), any other value by whether its interval contains `chance`. False when
    `chance` is unknown.
    """
    if evaluation.chance is None:
        return False
    if not is_accuracy(evaluation):
        low, high = interval(evaluation, confidence)
        return low <= evaluation.chance <= high
    return bool(_right(evaluation, evaluation.chance).pvalue > 1 - confidence)


def all_at_chance(evaluations: Sequence[Evaluation], confidence: float) -> bool:
    """Return whether all seeds are `at_chance`, jointly at this confidence (Bonferroni)."""
    each = 1 - (1 - confidence) / len(evaluations)
    return all(at_chance(x, each) for x in evaluations)


def _right(evaluation: Evaluation, chance: float = 0.5) -> Any:
    """Return scipy's binomial test of the number of items that are right."""
    from scipy import stats

    right = sum(x.value == 1 for x in evaluation.items)
    return stats.binomtest(right, len(evaluation.items), chance)
