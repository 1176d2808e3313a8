"""Item-by-item comparison of arms on every benchmark, with simultaneous intervals.

Three sources of variance are reported separately, because different things reduce them:

* *Items* (`low`, `high`): the sample of items, for these trained models. Both arms answer the same
  items, so only the differences between the arms count.
* *Seeds* (`over_seeds`): items and fine-tuning seeds together; more trainings reduce it.
* *Judge* (`between_repeats`): repeated grading of the same answers; more gradings reduce it. The
  judge's variance on single answers is already part of the variance over items.

All comparisons of one call share a Bonferroni correction: with probability `confidence` every
interval contains its true value. Unlike Holm's procedure, Bonferroni gives intervals, and none of
them depends on the others.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from ila_core.compare.align import Aligned, Side, align, between_repeats
from ila_core.compare.bootstrap import paired_bootstrap
from ila_core.compare.chance import RESAMPLES, all_at_chance, is_accuracy
from ila_core.compare.quantiles import half_width
from ila_core.compare.results import Evaluation
from ila_core.compare.seed_variance import OverSeeds, over_seeds
from ila_core.config import Frozen
from ila_core.errors import UserError, unknown_name

Evaluated = Mapping[str, Sequence[Evaluation]]
"""Benchmark to its evaluations, one per fine-tuning seed."""


class Compared(Frozen):
    """The difference of arm `a` minus arm `b` on one benchmark, in the benchmark's unit."""

    benchmark: str
    unit: str
    better: Literal["higher", "lower"]
    a: str
    b: str
    items: int
    left_out: int
    """Number of items that a judge did not grade in both arms; no figure here includes them."""
    by_seed_a: tuple[float, ...]
    """The value of each fine-tuning seed."""
    by_seed_b: tuple[float, ...]
    difference: float
    low: float
    high: float
    standard_error: float
    """The standard error of the difference over items."""
    over_seeds: OverSeeds | None
    """`None` when both arms have one seed."""
    between_repeats: float | None
    at_chance_a: bool
    at_chance_b: bool

    @property
    def sign(self) -> int:
        """The factor, 1 or -1, that turns a difference into an improvement of `a`."""
        return 1 if self.better == "higher" else -1


class Comparison(Frozen):
    """All comparisons of one call."""

    confidence: float
    """Probability that all intervals contain their true values."""
    compared: tuple[Compared, ...]
    limited: dict[str, int]
    """Benchmark to its limit of questions per task; benchmarks without a limit are absent."""
    unknown_generation: tuple[str, ...] = ()
    """Arms whose answers come from a file, so that their generation settings are unknown."""
    missing: tuple[str, ...]
    """Benchmarks on which only one of two arms was evaluated."""

    @property
    def each(self) -> float:
        """The confidence of each interval."""
        return bonferroni(self.confidence, len(self.compared))


def bonferroni(confidence: float, comparisons: int) -> float:
    return 1 - (1 - confidence) / comparisons


def compare(
    arms: Mapping[str, Evaluated],
    *,
    against: str,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare every other arm with `against`, on every benchmark that both were evaluated on.

    Raises:
        UserError: when two arms were not measured alike (judge, limit, prompt) or share nothing.
    """
    if against not in arms:
        raise unknown_name("arm", against, arms)
    others = [name for name in arms if name != against]
    pairs = [(a, x) for a in others for x in arms[a] if x in arms[against]]
    missing = [
        f"{benchmark} of {of!r}"
        for a in others
        for of, has in ((against, arms[a]), (a, arms[against]))
        for benchmark in has
        if benchmark not in arms[of]
    ]
    if not pairs:
        raise UserError(
            f"nothing to compare with {against!r}, evaluated on "
            f"{', '.join(arms[against]) or 'nothing'}: missing is {', '.join(missing) or 'an arm'}"
        )
    settings = _Settings(confidence, bonferroni(confidence, len(pairs)), resamples, seed)
    return Comparison(
        confidence=confidence,
        compared=tuple(
            _compared(Side(a, arms[a][x]), Side(against, arms[against][x]), settings)
            for a, x in pairs
        ),
        limited={
            x: limit
            for x, found in arms[against].items()
            if (limit := found[0].comparable.get("limit")) is not None
        },
        unknown_generation=tuple(
            arm
            for arm, found in arms.items()
            if any(x.comparable.get("generation", "") is None for of in found.values() for x in of)
        ),
        missing=tuple(dict.fromkeys(missing)),
    )


class _Settings(NamedTuple):
    confidence: float
    each: float
    resamples: int
    seed: int


def _compared(a: Side, b: Side, settings: _Settings) -> Compared:
    aligned = align(a, b)
    weight = aligned.weights.sum()
    by_seed_a = tuple(float(x) for x in aligned.a.sum(axis=1) / weight)
    by_seed_b = tuple(float(x) for x in aligned.b.sum(axis=1) / weight)
    accuracies = all(is_accuracy(x) for side in (a, b) for x in side.evaluations)
    difference, low, high, error = _over_items(aligned, accuracies, settings)
    first = a.evaluations[0]
    return Compared(
        benchmark=first.benchmark,
        unit=first.unit,
        better=first.better,
        a=a.arm,
        b=b.arm,
        items=len(aligned.weights),
        left_out=aligned.left_out,
        by_seed_a=by_seed_a,
        by_seed_b=by_seed_b,
        difference=difference,
        low=low,
        high=high,
        standard_error=error,
        over_seeds=over_seeds(aligned, difference, error, settings.each),
        between_repeats=between_repeats(a, b),
        at_chance_a=all_at_chance(a.evaluations, settings.confidence),
        at_chance_b=all_at_chance(b.evaluations, settings.confidence),
    )


def signs_interval(gaps: Sequence[float], confidence: float) -> tuple[float, float, float]:
    """Return low, high and standard error of the mean of differences that are mostly -1, 0 or 1.

    The interval of Agresti and Min (2005, doi:10.1002/sim.1781) adds two items, of which one
    differs, half to each side; so it has a width even when all items agree.
    """
    n = len(gaps) + 2
    centre = math.fsum(gaps) / n
    error = math.sqrt((math.fsum(gap**2 for gap in gaps) + 1) / n - centre**2) / math.sqrt(n)
    half = half_width(confidence) * error
    return centre - half, centre + half, error


def _over_items(
    aligned: Aligned, accuracies: bool, settings: _Settings
) -> tuple[float, float, float, float]:
    """Return difference, low, high and standard error over items, averaged over seeds per item.

    Accuracies use `signs_interval`: they differ on few items, and when none differs the paired
    percentile bootstrap of the other benchmarks would have no width.
    """
    n = len(aligned.weights)
    a, b = aligned.a.mean(axis=0), aligned.b.mean(axis=0)
    gap, weight = a - b, aligned.weights.sum()
    difference = float(gap.sum() / weight)
    if accuracies:
        return difference, *signs_interval(gap.tolist(), settings.each)
    _, low, high = paired_bootstrap(
        a,
        b,
        aligned.weights,
        resamples=settings.resamples,
        confidence=settings.each,
        seed=settings.seed,
    )
    # Of a ratio of two sums, linearised.
    residual = gap - difference * aligned.weights
    error = math.sqrt(n / (n - 1) * float((residual**2).sum())) / float(weight)
    return difference, low, high, error
