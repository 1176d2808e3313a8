"""Which of two models a judge prefers over all questions, with an interval."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from ila_core.compare.align import refuse_unlike
from ila_core.compare.arms import bonferroni, signs_interval
from ila_core.compare.judge_spread import judged_again
from ila_core.compare.results import Evaluation
from ila_core.config import Frozen


class Pair(NamedTuple):
    """The names of two models and the judge's comparison of their answers to one benchmark."""

    a: str
    b: str
    result: Evaluation
    """The result of `ila_core.judge.pairwise.compare`."""


class Preferred(Frozen):
    benchmark: str
    a: str
    b: str
    wins: int
    """Number of questions in which `a` won more turns than it lost."""
    ties: int
    losses: int
    share: float
    """The win rate of `a`: a tie counts half, averaged over turns, then over questions."""
    low: float
    high: float
    judged_again: tuple[float, float] | None
    """Interval of the share when the judge compares the same answers again; `None`: no repeats."""
    says: Literal["a", "b", "undecided"]
    counts: dict[str, int]
    """Numbers of questions not judged, and of turns in which the order of the answers decided."""


def preferred(pairs: Sequence[Pair], confidence: float) -> list[Preferred]:
    """Count each pair's wins; `confidence` is that of all intervals jointly (Bonferroni).

    A question that is won, tied or lost is a difference of 1, 0 or -1, so `signs_interval` applies.

    Raises:
        UserError: when two pairs of one benchmark were not judged alike.
    """
    each = bonferroni(confidence, len(pairs))
    firsts: dict[str, Pair] = {}
    found = []
    for a, b, result in pairs:
        first = firsts.setdefault(result.benchmark, Pair(a, b, result))
        refuse_unlike(f"{first.a} beside {first.b}", first.result, f"{a} beside {b}", result)
        low, high, _ = signs_interval([2 * item.value - 1 for item in result.items], each)
        low, high = max(0.0, (1 + low) / 2), min(1.0, (1 + high) / 2)
        counts = dict(result.counts)
        found.append(
            Preferred(
                benchmark=result.benchmark,
                a=a,
                b=b,
                wins=counts.pop("wins"),
                ties=counts.pop("ties"),
                losses=counts.pop("losses"),
                share=result.value,
                low=low,
                high=high,
                judged_again=judged_again(result, confidence=confidence),
                says="a" if low > 0.5 else "b" if high < 0.5 else "undecided",
                counts=counts,
            )
        )
    return found
