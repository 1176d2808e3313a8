"""Arms compared on every benchmark, item by item, with simultaneous intervals.

Three sources of chance are kept apart, since they shrink with different things:

* *Questions* (`low`, `high`): which items the benchmark happens to hold, the trained models fixed.
  Both arms answer the same items, so only what differs between them counts.
* *Seeds* (`over_seeds`): the same plus which fine-tuning seed; shrinks with more trainings.
* *Judge* (`between_repeats`): the same answers graded again; shrinks with more gradings. What it
  does to each answer apart is already in the spread over questions.

Bonferroni over all comparisons of one call: with probability `confidence` every interval holds what
it is about. Unlike Holm's steps, that gives intervals, and one that does not depend on the others.
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
"""Evaluations by benchmark, one per fine-tuning seed."""


class Compared(Frozen):
    """Arm `a` minus arm `b` on one benchmark, in its unit."""

    benchmark: str
    unit: str
    better: Literal["higher", "lower"]
    a: str
    b: str
    items: int
    left_out: int
    """Items that a judge did not grade in both, which no number here contains."""
    by_seed_a: tuple[float, ...]
    """The value by fine-tuning seed."""
    by_seed_b: tuple[float, ...]
    difference: float
    low: float
    high: float
    standard_error: float
    """The standard error of the difference over items."""
    over_seeds: OverSeeds | None
    """`None` where both arms have one."""
    between_repeats: float | None
    at_chance_a: bool
    at_chance_b: bool

    @property
    def sign(self) -> int:
        """What turns a difference into an improvement of `a`."""
        return 1 if self.better == "higher" else -1


class Comparison(Frozen):
    """All that were made in one call."""

    confidence: float
    """That all intervals hold at once."""
    compared: tuple[Compared, ...]
    limited: dict[str, int]
    """Benchmark to the questions per task that it was limited to, where it was."""
    unknown_generation: tuple[str, ...] = ()
    """Arms whose answers come from a file, so that nobody can say how they were generated."""
    missing: tuple[str, ...]
    """What only one of two arms was evaluated on."""

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
    """Subtract `against` from every other arm, on every benchmark that both were evaluated on.

    Raises:
        UserError: not measured alike (another judge, limit, prompt), or nothing in common.
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
    difference, low, high, error = _over_items(aligned, _are_accuracies(a, b), settings)
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
    """Low, high and standard error of the mean of differences that are mostly -1, 0 or 1.

    Agresti and Min's (2005, doi:10.1002/sim.1781), which counts two items more, one of which
    differs, half to each side: it claims no certainty where all items agree.
    """
    n = len(gaps) + 2
    centre = math.fsum(gaps) / n
    error = math.sqrt((math.fsum(gap**2 for gap in gaps) + 1) / n - centre**2) / math.sqrt(n)
    half = half_width(confidence) * error
    return centre - half, centre + half, error


def _are_accuracies(a: Side, b: Side) -> bool:
    return all(is_accuracy(x) for side in (a, b) for x in side.evaluations)


def _over_items(
    aligned: Aligned, accuracies: bool, settings: _Settings
) -> tuple[float, float, float, float]:
    """Difference, interval and standard error over items, seeds averaged item by item.

    The paired percentile bootstrap, but for accuracies, which differ on few items: where none
    differs it would claim certainty.
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
