"""Rank correlation beyond layer type, against scipy."""

from __future__ import annotations

import random

import pytest
from scipy.stats import spearmanr

from ila_core.models.layers import Layer
from ila_core.search.agreement_within_types import correlation_within_types

KINDS = ("q_proj", "k_proj", "up_proj")
LAYERS = [
    Layer(name=f"model.layers.{block}.{kind}", block=block, type=kind, shape=(8, 8 + i))
    for block in range(12)
    for i, kind in enumerate(KINDS)
] + [Layer(name="lm_head", block=None, type="lm_head", shape=(64, 8))]
LIFT = dict(zip((*KINDS, "lm_head"), (0.0, 100.0, 200.0, 300.0), strict=True))


def column(seed: int, like: dict[str, float] | None = None, noise: float = 1.0):
    """Scores that differ by type far more than within one."""
    rng = random.Random(seed)
    return {x.name: (like[x.name] if like else LIFT[x.type]) + rng.gauss(0, noise) for x in LAYERS}


def test_agreement_by_type_alone_is_chance_here() -> None:
    a, b = column(0), column(1)
    assert spearmanr(list(a.values()), list(b.values())).statistic > 0.85
    found = correlation_within_types(LAYERS, a=("a", a), b=("b", b))
    assert found.rho is not None and found.chance_high is not None and found.chance_low is not None
    assert found.chance_low < found.rho < found.chance_high and not found.above_chance
    assert found.p_value is not None and found.p_value > 0.05
    assert (found.left_out, found.n_layers) == (("lm_head",), 36)


def test_rho_is_spearmans_of_each_type_and_their_mean() -> None:
    a = column(0)
    b = column(2, like=a, noise=0.5)
    found = correlation_within_types(LAYERS, a=("a", a), b=("b", b))
    for kind in KINDS:
        names = [x.name for x in LAYERS if x.type == kind]
        expected = spearmanr([a[n] for n in names], [b[n] for n in names]).statistic
        assert found.by_type[kind] == pytest.approx(expected)
    assert found.rho == pytest.approx(sum(found.by_type.values()) / 3)
    assert found.above_chance and found.p_value is not None and found.p_value < 0.01
    assert correlation_within_types(LAYERS, a=("a", a), b=("b", b)) == found
    same = correlation_within_types(LAYERS, a=("a", a), b=("a", a), permutations=99)
    assert (same.rho, same.p_value) == (pytest.approx(1), 0.01)


def test_chance_is_as_wide_as_theory_says() -> None:
    """Var(rho) = 1 / (n - 1) for one type; the mean of three types of twelve has a third of it."""
    found = correlation_within_types(LAYERS, a=("a", column(0)), b=("b", column(1)))
    half = 1.96 * (1 / 11 / 3) ** 0.5
    assert found.chance_high == pytest.approx(half, rel=0.1)
    assert found.chance_low == pytest.approx(-half, rel=0.1)


def test_where_nothing_can_be_said_nothing_is() -> None:
    size = {x.name: float(x.weights) for x in LAYERS}
    found = correlation_within_types(LAYERS, a=("a", column(0)), b=("size", size))
    assert (found.rho, found.p_value, found.n_layers, found.by_type) == (None, None, 0, {})
    assert not found.above_chance
    assert found.left_out == (*KINDS, "lm_head")
