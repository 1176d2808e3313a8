"""Alignment of two arms' evaluations of one benchmark on the same items."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ila_core.compare.bootstrap import Floats
from ila_core.compare.results import Evaluation
from ila_core.errors import UserError, listed


class Side(NamedTuple):
    """An arm and its evaluations of one benchmark, one per fine-tuning seed."""

    arm: str
    evaluations: Sequence[Evaluation]


class Aligned(NamedTuple):
    a: Floats
    """Values of arm `a`, shape (seeds, items); those of `b` likewise."""
    b: Floats
    weights: Floats
    left_out: int
    """Number of items that a judge failed to grade in some evaluation."""


def align(a: Side, b: Side) -> Aligned:
    """Return the values of the items that all evaluations share, in the first one's order.

    Items may be missing only under a judge, which may fail to grade; they are left out of both
    arms and counted.

    Raises:
        UserError: when the evaluations were not measured alike, or not on the same items.
    """
    everyone = [(side.arm, x) for side in (a, b) for x in side.evaluations]
    _, first = everyone[0]
    for arm, other in everyone[1:]:
        refuse_unlike(a.arm, first, arm, other)
    items = [{x.id: x for x in e.items} for _, e in everyone]
    common = [x.id for x in first.items if all(x.id in found for found in items)]
    left_out = len(set().union(*items)) - len(common)
    if left_out and not all(_is_judged(e) for _, e in everyone):
        raise UserError(
            f"{first.benchmark} of {a.arm!r} and {b.arm!r}: {left_out} items were answered in one "
            "and not in the other: evaluate both on the same data with the same limit"
        )
    if len(common) < 2:
        raise UserError(
            f"{first.benchmark} of {a.arm!r} and {b.arm!r} have {len(common)} items in common "
            "and 2 are the least: evaluate more"
        )
    unlike = [i for i in common if any(x[i].weight != items[0][i].weight for x in items)]
    if unlike:
        raise UserError(
            f"{first.benchmark} of {a.arm!r} and {b.arm!r}: {len(unlike)} items differ in weight "
            f"({listed(unlike, 3)}): evaluate both on the same data with the same tokenizer"
        )
    values = np.array([[found[i].value for i in common] for found in items])
    weights = np.array([items[0][i].weight for i in common])
    seeds = len(a.evaluations)
    return Aligned(values[:seeds], values[seeds:], weights, left_out)


def between_repeats(a: Side, b: Side) -> float | None:
    """Estimate the standard deviation of a - b when each answer is judged again once.

    For each evaluation, the r-th grades of all items have one mean; its variance over r is divided
    by the squared number of the arm's seeds and summed over the evaluations of both arms. `None`
    when some answer has fewer than two grades.
    """
    variance = 0.0
    for side in (a, b):
        for evaluation in side.evaluations:
            graded = min(len(x.repeats) for x in evaluation.items)
            if graded < 2:
                return None
            means = [np.mean([x.repeats[r] for x in evaluation.items]) for r in range(graded)]
            variance += float(np.var(means, ddof=1)) / len(side.evaluations) ** 2
    return math.sqrt(variance)


def _is_judged(evaluation: Evaluation) -> bool:
    return any(x.repeats for x in evaluation.items)


def _differ(field: str, x: object, y: object) -> bool:
    """Return whether two settings differ. A server has several back ends, so judges differ when no
    fingerprint is common; `None` is the unknown generation of answers from a file."""
    if field == "generation" and None in (x, y):
        return False
    if field == "fingerprints" and isinstance(x, list) and isinstance(y, list) and x and y:
        return not set(x) & set(y)
    return bool(x != y)


def refuse_unlike(arm: str, first: Evaluation, other_arm: str, other: Evaluation) -> None:
    """Refuse two evaluations that were not measured alike.

    Raises:
        UserError: when they differ in a setting; the message names it.
    """
    x, y = ({"unit": e.unit, "better": e.better, **e.comparable} for e in (first, other))
    apart = [
        f"{field} is {x.get(field, 'not given')!r} and {y.get(field, 'not given')!r}"
        for field in {**x, **y}
        if _differ(field, x.get(field, "not given"), y.get(field, "not given"))
    ]
    if apart:
        raise UserError(
            f"{first.benchmark} of {arm!r} and {other_arm!r} cannot be compared: "
            f"{'; '.join(apart)}. Evaluate both alike"
        )
