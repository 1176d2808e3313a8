"""Mask curves and their areas on a tiny model that stage 1 has taught something."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ila_core.errors import CheckError, UserError
from ila_core.report.figures import mask_curve_figure
from ila_core.search.mask_area import trapezoid_weights
from ila_core.search.mask_curve import (
    FRACTIONS,
    MaskCurves,
    closed_sets,
    closing_order,
    mask_curves,
    per_weight,
    random_orders_of,
    random_orders_within_types,
)
from ila_core.search.masked_loss import MaskedLoss
from ila_core.search.ranking import kept_count, least
from ila_core.search.scorers import SCORERS
from ila_core.train.held_out_loss import held_out_loss
from tests.helpers import aligned
from tests.helpers.aligned import LAYERS, material
from tests.helpers.made_up import Outline

NAMES = [layer.name for layer in LAYERS]
WEIGHTS = {layer.name: layer.weights for layer in LAYERS}


@pytest.fixture(scope="module")
def model():
    return aligned.stage1_model()


@pytest.fixture(scope="module")
def masked(model):
    return MaskedLoss(model, aligned.HELD_OUT, eval_batch=16)


@pytest.fixture(scope="module")
def columns(model):
    score = SCORERS["integrated_gradients"].score
    good = score(material(model, batches=4, batch_size=16)).scores
    return {"ig": good, "size": SCORERS["size"].score(material()).scores}


@pytest.fixture(scope="module", params=["count", "share"])
def curves(request, masked, columns) -> MaskCurves:
    return mask_curves(
        masked, LAYERS, columns, by=request.param, controls_of=["ig"], seed=0, resamples=200,
        confidence=0.95, random_orders=6,
    )  # fmt: skip


def held_out(model):
    return held_out_loss(model, aligned.HELD_OUT, eval_batch=16).loss


def every_curve(curves: MaskCurves):
    yield from (*curves.orders.values(), *curves.reversed.values(), *curves.random)
    for drawn in curves.within_types.values():
        yield from drawn


def test_ends_are_the_stage1_and_the_base_model_exactly(curves, model) -> None:
    opened = held_out(model)
    with model.disable_adapter():
        closed = held_out(model)
    assert closed > opened + 0.5
    found = list(every_curve(curves))
    assert len(found) == 2 + 1 + 6 + 6
    assert {(curve.losses[0], curve.losses[-1]) for curve in found} == {(opened, closed)}
    assert {curve.fractions for curve in found} == {found[0].fractions}
    for curve in found:
        first, last = curve.points[0], curve.points[-1]
        assert (first.count, first.share, last.count, last.share) == (0, 0, 15, 1)
        assert all(0 <= point.share <= 1 for point in curve.points)


def test_a_good_order_beats_random_and_its_reverse_does_not(curves) -> None:
    areas = {(x.scorer, x.control, x.up_to): x for x in curves.areas}
    assert len(areas) == len(curves.areas) == 6
    for area in curves.areas:
        assert area.low <= area.height <= area.high
        assert area.n_random == 6
    best = areas["ig", "random", 1.0]
    assert best.low > 0 and best.beaten == 6
    order, backwards = curves.orders["ig"].losses, curves.reversed["ig"].losses
    assert sum(backwards) > sum(order)
    if curves.by == "count":
        assert all(b >= o for o, b in zip(order, backwards, strict=True))


def test_no_set_is_evaluated_twice(model, columns) -> None:
    def all_sets(masked: MaskedLoss, **changes) -> MaskCurves:
        arguments = {"by": "count", "controls_of": [], "seed": 0, "random_orders": 3}
        return mask_curves(
            masked, LAYERS, columns, resamples=10, confidence=0.9, **(arguments | changes)
        )

    def seen(curves: MaskCurves) -> list[tuple[str, ...]]:
        fractions = curves.random[0].fractions
        orders = [closing_order(scores, LAYERS) for scores in columns.values()]
        orders += random_orders_of(NAMES, 3, seed=0)
        return [s for o in orders for s in closed_sets(o, LAYERS, by="count", fractions=fractions)]

    masked = MaskedLoss(model, aligned.HELD_OUT[:4], eval_batch=4)
    first = all_sets(masked)
    points = len(first.orders["ig"].points)
    assert points == len({kept_count(1 - f, 15) for f in FRACTIONS}) <= 12
    evaluations = masked.evaluations
    assert evaluations == len({frozenset(s) for s in seen(first)}) <= 2 + 5 * (points - 2)
    assert all_sets(masked) == first
    assert masked.evaluations == evaluations
    assert all_sets(MaskedLoss(model, aligned.HELD_OUT[:4], eval_batch=4)) == first
    with_reverse = all_sets(masked, controls_of=["ig"], random_orders=2)
    assert with_reverse.random == first.random[:2]
    with pytest.raises(UserError, match="unknown scorer 'igg': did you mean 'ig'"):
        all_sets(masked, controls_of=["igg"])


def test_the_loss_of_a_set_is_that_of_the_model_without_those_adapters(model, masked) -> None:
    from ila_core.train.methods.lora import lora_layers

    closed = ["lm_head", "model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj"]
    found = masked.loss(closed)
    scalings = {name: lora_layers(model)[name].scaling for name in closed}
    for scaling in scalings.values():
        scaling["default"] *= 1e-30
    assert held_out(model) == pytest.approx(found, abs=1e-6)
    for scaling in scalings.values():
        scaling["default"] /= 1e-30
    with pytest.raises(CheckError, match="no adapter on mlp, so there is nothing to close"):
        masked.loss(["mlp"])


def test_by_count_a_set_is_what_a_selection_freezes() -> None:
    scores = {name: random.Random(name).random() for name in NAMES}
    order = closing_order(scores, LAYERS)
    sets = closed_sets(order, LAYERS, by="count", fractions=FRACTIONS)
    for fraction, closed in zip(FRACTIONS, sets, strict=True):
        assert frozenset(closed) == least(scores, LAYERS, fraction)
        assert scores[order[0]] == min(scores.values())


@given(st.permutations(NAMES), st.lists(st.floats(0, 1), min_size=1))
def test_by_share_nothing_overshoots_and_nothing_more_would_fit(names, fractions) -> None:
    total = sum(WEIGHTS.values())
    for fraction, closed in zip(
        fractions, closed_sets(names, LAYERS, by="share", fractions=fractions), strict=True
    ):
        used = sum(WEIGHTS[name] for name in closed)
        assert used <= fraction * total * (1 + 1e-9)
        left = [WEIGHTS[name] for name in NAMES if name not in closed]
        assert all(used + weights > fraction * total for weights in left)
        assert list(closed) == [name for name in names if name in closed]
    assert set(closed_sets(names, LAYERS, by="share", fractions=[1.0])[0]) == set(NAMES)


def test_random_orders() -> None:
    types = {layer.name: layer.type for layer in LAYERS}
    order = random_orders_of(NAMES, 1, seed=5)[0]
    within = random_orders_within_types(order, LAYERS, 20, seed=0)
    for drawn in within:
        assert sorted(drawn) == sorted(NAMES)
        assert [types[name] for name in drawn] == [types[name] for name in order]
    assert len(set(within)) > 15
    free = random_orders_of(NAMES, 20, seed=0)
    assert random_orders_of(NAMES, 7, seed=0) == free[:7]
    assert len(set(free)) == 20 and Counter(map(len, map(set, free))) == {15: 20}
    assert set(free).isdisjoint(random_orders_of(NAMES, 20, seed=1))


def test_the_area_is_the_trapezoid_rule() -> None:
    fractions, losses = [0.0, 0.2, 0.6, 1.0], [1.0, 2.0, 4.0, 4.0]
    assert trapezoid_weights(fractions, 1.0) @ losses == pytest.approx(0.3 + 1.2 + 1.6)
    assert trapezoid_weights(fractions, 0.5) @ losses == pytest.approx(0.3 + 0.3 * (2 + 3.5) / 2)
    assert trapezoid_weights(fractions, 0.2) @ losses == pytest.approx(0.3)


def test_heights_are_those_between_the_drawn_curves(curves) -> None:
    for area in curves.areas:
        drawn = curves.random if area.control == "random" else curves.within_types[area.scorer]
        weights = trapezoid_weights(drawn[0].fractions, area.up_to) / area.up_to
        under = [weights @ curve.losses for curve in drawn]
        own = weights @ curves.orders[area.scorer].losses
        assert area.height == pytest.approx(sum(under) / len(under) - own, abs=1e-9)
        assert area.beaten == sum(u > own for u in under)


def test_per_weight() -> None:
    scores = dict.fromkeys(NAMES, 2.0)
    largest = max(NAMES, key=lambda name: WEIGHTS[name])
    assert per_weight(scores, LAYERS)[largest] == 2 / WEIGHTS[largest]
    assert closing_order(per_weight(scores, LAYERS), LAYERS)[0] in {"lm_head", largest} | {
        name for name in NAMES if WEIGHTS[name] == WEIGHTS[largest]
    }


def test_the_figure_shows_every_order(curves) -> None:
    svg = mask_curve_figure(curves, title="a & b").inline()
    assert mask_curve_figure(curves, title="a & b").inline() == svg
    assert Outline(svg).open == []
    assert 'aria-label="Held-out loss on a &amp; b with more and more of' in svg
    for label in ("ig", "ig reversed", "ig: random within types", "size", "random (6 orders)"):
        assert f">{label}</text>" in svg
    assert len(re.findall(r"closed, % of (15 layers|the layers)", svg)) == 1
