"""The mask itself, evaluated (Eqs. 1 and 3): held-out loss with more and more adapters closed.

It needs no training and is the strongest cheap check that a ranking means something. An order is
shown beside random orders, because closing any few adapters costs little, and beside random orders
with its own sequence of types, because most of a ranking can be the layers' type. What closing
*afterwards* costs is not what never training a layer costs: only fine-tuning shows that.
"""

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

from ila_core.config import Frozen
from ila_core.errors import unknown_name
from ila_core.models.layers import Layer
from ila_core.search.mask_area import AreaBetween, Control, area_between
from ila_core.search.masked_loss import MaskedLoss
from ila_core.search.ranking import exact, kept_count, order

FRACTIONS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0)
"""Dense where selections are made: a quarter of the layers is what the paper freezes."""
RANDOM_ORDERS = 20
HALF = 0.5

By = Literal["count", "share"]
"""What the axis measures: closed layers out of all, or closed weights out of all."""


class CurvePoint(Frozen):
    fraction: float
    """Closed layers out of all (count), or the share of the weights that was allowed (share)."""
    count: int
    """Closed layers."""
    share: float
    """Closed weights out of all."""
    loss: float
    """Held-out token mean, in nats."""


class MaskCurve(Frozen):
    points: tuple[CurvePoint, ...]
    """From nothing closed (the stage-1 model) to everything closed (the base model)."""

    @property
    def fractions(self) -> tuple[float, ...]:
        return tuple(point.fraction for point in self.points)

    @property
    def losses(self) -> tuple[float, ...]:
        return tuple(point.loss for point in self.points)


class MaskCurves(Frozen):
    """Orders of one stage-1 model on one axis; every curve has the same fractions."""

    by: By
    orders: dict[str, MaskCurve]
    """The curve of each scorer, least important closed first."""
    reversed: dict[str, MaskCurve]
    """Most important closed first, for the scorers that controls were asked for."""
    random: tuple[MaskCurve, ...]
    within_types: dict[str, tuple[MaskCurve, ...]]
    """Random with the scorer's own sequence of types, for the same scorers."""
    areas: tuple[AreaBetween, ...]
    """Every scorer against random, then against random within types where there is such, each up
    to everything closed and up to a half."""

    def area(self, scorer: str, control: Control = "random") -> AreaBetween:
        """Return the areas up to one half; within types only for the scorers in `within_types`."""
        wanted = (scorer, control, HALF)
        (found,) = (x for x in self.areas if (x.scorer, x.control, x.up_to) == wanted)
        return found


def mask_curves(
    masked: MaskedLoss,
    layers: Sequence[Layer],
    columns: Mapping[str, Mapping[str, float]],
    *,
    by: By,
    controls_of: Collection[str],
    seed: int,
    resamples: int,
    confidence: float,
    random_orders: int = RANDOM_ORDERS,
    fractions: Sequence[float] = FRACTIONS,
) -> MaskCurves:
    """Evaluate the orders of several scorers and their controls.

    Args:
        masked: losses of the stage-1 model; give the same one for both axes, and what they share
            is evaluated once.
        layers: those that the scores are over, in layer order.
        columns: scores by scorer; larger is more important and closed later.
        by: the axis.
        controls_of: scorers that get a reversed order and random orders within types as well.
        seed: of the random orders and the bootstrap.
        resamples: of the bootstrap behind each area's interval.
        confidence: of that interval.
        random_orders: how many, of either kind.
        fractions: of the layers or the weights; 0 and 1 are always evaluated.

    Raises:
        UserError: a scorer in `controls_of` that is not in `columns`.
        CheckError: a layer without an adapter, or a loss that is not finite.
    """
    for name in controls_of:
        if name not in columns:
            raise unknown_name("scorer", name, columns)
    grid = _distinct(sorted({0.0, *fractions, 1.0}), len(layers), by)

    def sets_of(names: Sequence[str]) -> list[tuple[str, ...]]:
        return closed_sets(names, layers, by=by, fractions=grid)

    def curve(names: Sequence[str]) -> MaskCurve:
        return _evaluated(masked, layers, sets_of(names), by=by, fractions=grid)

    orders = {name: closing_order(scores, layers) for name, scores in columns.items()}
    draws = random_orders_of([layer.name for layer in layers], random_orders, seed)
    type_draws = {
        name: random_orders_within_types(orders[name], layers, random_orders, seed)
        for name in orders
        if name in controls_of
    }
    plain = {name: curve(names) for name, names in orders.items()}
    controls: dict[Control, Mapping[str, list[tuple[str, ...]]]] = {
        "random": dict.fromkeys(orders, draws),
        "random within types": type_draws,
    }
    areas = [
        area_between(
            masked,
            plain[name].fractions,
            sets_of(orders[name]),
            [sets_of(draw) for draw in control_draws],
            scorer=name,
            control=control,
            up_to=up_to,
            seed=seed,
            resamples=resamples,
            confidence=confidence,
        )
        for control, drawn in controls.items()
        for name, control_draws in drawn.items()
        for up_to in (1.0, HALF)
    ]
    return MaskCurves(
        by=by,
        orders=plain,
        reversed={name: curve(orders[name][::-1]) for name in type_draws},
        random=tuple(map(curve, draws)),
        within_types={name: tuple(map(curve, drawn)) for name, drawn in type_draws.items()},
        areas=tuple(areas),
    )


def closing_order(scores: Mapping[str, float], layers: Sequence[Layer]) -> tuple[str, ...]:
    """Order layers least important first: the first K are the K that a selection would freeze."""
    return tuple(order(scores, layers)[::-1])


def per_weight(scores: Mapping[str, float], layers: Sequence[Layer]) -> dict[str, float]:
    """Divide each score by the layer's number of weights, for a curve by share of the weights."""
    return {layer.name: scores[layer.name] / layer.weights for layer in layers}


def random_orders_of(names: Sequence[str], count: int, seed: int) -> list[tuple[str, ...]]:
    """Return `count` shuffles; the first of them are the same whatever their number."""
    return [
        tuple(random.Random(f"{seed}/random/{i}").sample(names, len(names))) for i in range(count)
    ]


def random_orders_within_types(
    names: Sequence[str], layers: Sequence[Layer], count: int, seed: int
) -> list[tuple[str, ...]]:
    """Shuffle the layers of each type among themselves; the order's sequence of types stays."""
    types = {layer.name: layer.type for layer in layers}
    drawn = []
    for i in range(count):
        rng = random.Random(f"{seed}/within types/{i}")
        pools = {kind: [x.name for x in layers if x.type == kind] for kind in types.values()}
        for pool in pools.values():
            rng.shuffle(pool)
        drawn.append(tuple(pools[types[name]].pop() for name in names))
    return drawn


def closed_sets(
    names: Sequence[str], layers: Sequence[Layer], *, by: By, fractions: Iterable[float]
) -> list[tuple[str, ...]]:
    """Return the layers closed at each fraction, in closing order.

    By count the number closed is a selection's (`kept_count`). By share a layer that would
    overshoot is skipped, and a smaller one behind it may still be closed.
    """
    n = len(layers)
    if by == "count":
        return [tuple(names[: n - kept_count(1 - exact(f), n)]) for f in fractions]
    weights = {layer.name: layer.weights for layer in layers}
    total = sum(weights.values())
    sets = []
    for fraction in fractions:
        room = fraction * total * (1 + 1e-9)  # or rounding leaves one layer open at 1
        closed = []
        for name in names:
            if weights[name] <= room:
                closed.append(name)
                room -= weights[name]
        sets.append(tuple(closed))
    return sets


def _distinct(fractions: Sequence[float], n_layers: int, by: By) -> list[float]:
    """Leave out fractions that a small model rounds to a count it already has."""
    if by == "share":
        return list(fractions)
    return list({kept_count(1 - exact(f), n_layers): f for f in reversed(fractions)}.values())[::-1]


def _evaluated(
    masked: MaskedLoss,
    layers: Sequence[Layer],
    sets: Sequence[Sequence[str]],
    *,
    by: By,
    fractions: Sequence[float],
) -> MaskCurve:
    weights = {layer.name: layer.weights for layer in layers}
    total = sum(weights.values())
    return MaskCurve(
        points=tuple(
            CurvePoint(
                fraction=len(closed) / len(layers) if by == "count" else fraction,
                count=len(closed),
                share=sum(weights[name] for name in closed) / total,
                loss=masked.loss(closed),
            )
            for fraction, closed in zip(fractions, sets, strict=True)
        )
    )
