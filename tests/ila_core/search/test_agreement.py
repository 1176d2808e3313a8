"""Agreement and its chance levels, against formulas, scipy and brute force."""

from __future__ import annotations

from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import hypergeom

from ila_core.errors import UserError
from ila_core.models.layers import Layer
from ila_core.search.agreement import (
    agreements,
    agreements_between,
    chance,
    compare,
    intersection,
    jaccard_of_kept,
    kappa_of_frozen,
)
from ila_core.search.ranking import LayerScores, Ranking

TYPES = {"q_proj": (8, 8), "k_proj": (2, 8), "up_proj": (24, 8)}
LAYERS = [
    Layer(name=f"model.layers.{block}.{kind}", block=block, type=kind, shape=shape)
    for block in range(4)
    for kind, shape in TYPES.items()
]
NAMES = [layer.name for layer in LAYERS]


def ranking_of(**scores: list[list[float]]) -> Ranking:
    """`scores[dataset]`: one list over the layers per seed."""
    return Ranking(
        base_model="tiny",
        model={},
        architecture="a" * 12,
        key="k" * 12,
        scorer="ila",
        keep=0.75,
        score_keys={d: {str(s): "s" * 12 for s in range(len(v))} for d, v in scores.items()},
        stable={d: {str(s): True for s in range(len(v))} for d, v in scores.items()},
        unsure=dict.fromkeys(scores),
        data_keys={d: "d" * 12 for d in scores},
        settings={},
        versions={},
        layers=tuple(
            LayerScores(
                **layer.model_dump(),
                scores={d: {str(s): v[i] for s, v in enumerate(vs)} for d, vs in scores.items()},
            )
            for i, layer in enumerate(LAYERS)
        ),
    )


def freezing(*names: int) -> list[float]:
    """Scores whose least important layers are these."""
    return [0.0 if i in names else 1.0 for i in range(len(LAYERS))]


@pytest.mark.parametrize(
    ("n", "k", "expected", "p99"), [(225, 56, 0.60, 0.66), (43, 11, 0.59, 0.73)]
)
def test_chance_levels_of_the_design(n: int, k: int, expected: float, p99: float) -> None:
    level = chance([(n, k, k)])
    assert level.expected == pytest.approx(expected, abs=0.005)
    assert level.p99 == pytest.approx(p99, abs=0.005)


@given(st.integers(1, 60), st.data())
def test_chance_is_the_hypergeometric(n: int, data: st.DataObject) -> None:
    a, b = (data.draw(st.integers(0, n)) for _ in range(2))
    overlap = hypergeom(n, a, b)
    level = chance([(n, a, b)])
    expected = sum(overlap.pmf(o) * jaccard_of_kept(n, a, b, o) for o in range(min(a, b) + 1))
    assert level.expected == pytest.approx(expected)
    at_p99 = next(o for o in range(n + 1) if overlap.cdf(o) >= 0.99 - 1e-12)
    assert level.p99 == pytest.approx(jaccard_of_kept(n, a, b, at_p99))


def test_chance_within_types_is_what_enumeration_gives() -> None:
    strata = [(4, 2, 1), (3, 1, 2), (2, 0, 1)]
    draws = [
        sum(len(set(range(a)) & set(c)) for (_, a, _), c in zip(strata, choice, strict=True))
        for choice in product(*(combinations(range(n), b) for n, _, b in strata))
    ]
    jaccards = sorted(jaccard_of_kept(9, 3, 4, shared) for shared in draws)
    level = chance(strata)
    assert level.expected == pytest.approx(sum(jaccards) / len(jaccards))
    assert level.p99 == next(
        j for j in jaccards if sum(x <= j for x in jaccards) >= 0.99 * len(draws)
    )
    assert sum(draws) / len(draws) == pytest.approx(sum(a * b / n for n, a, b in strata))


def test_one_layer_per_type_leaves_nothing_to_chance() -> None:
    assert chance([(1, 1, 1), (1, 0, 1), (1, 0, 0)]) == (0.5, 0.5)


@given(st.integers(2, 50), st.data())
def test_kappa_is_the_formula_of_the_design(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n - 1))
    o = data.draw(st.integers(max(0, 2 * k - n), k))
    assert kappa_of_frozen(n, k, k, o) == pytest.approx((o - k * k / n) / (k - k * k / n))


@given(st.integers(2, 30), st.data())
def test_kappa_of_unequal_sets_is_cohens(n: int, data: st.DataObject) -> None:
    a, b = (data.draw(st.integers(1, n - 1)) for _ in range(2))
    o = data.draw(st.integers(max(0, a + b - n), min(a, b)))
    observed = (n - a - b + 2 * o) / n
    by_chance = (a * b + (n - a) * (n - b)) / n**2
    kappa = kappa_of_frozen(n, a, b, o)
    assert kappa == pytest.approx((observed - by_chance) / (1 - by_chance), abs=1e-12)


def test_nothing_frozen_agrees_fully_and_has_no_kappa() -> None:
    found = compare(
        LAYERS,
        1.0,
        kind="datasets",
        a=("x", dict.fromkeys(NAMES, 0.0)),
        b=("y", dict.fromkeys(NAMES, 1.0)),
    )
    assert (found.jaccard, found.kappa, found.above_chance) == (1.0, None, False)


def test_every_pair_is_compared_and_each_beside_size() -> None:
    found = agreements(
        ranking_of(lima=[freezing(0, 1, 2), freezing(0, 1, 5)], dolly=[freezing(0, 1, 2)]), 0.75
    )
    assert [(x.kind, x.a, x.b) for x in found] == [
        ("datasets", "lima", "dolly"),
        ("seeds", "lima seed 0", "lima seed 1"),
        ("size", "lima", "size"),
        ("size", "dolly", "size"),
    ]
    assert (found[1].n_frozen, found[1].shared_frozen, found[1].jaccard) == (3, 2, 8 / 10)


def test_two_rankings_are_compared_dataset_by_dataset() -> None:
    ours = ranking_of(lima=[freezing(0, 1, 2)], dolly=[freezing(0, 1, 5)])
    other = ranking_of(lima=[freezing(0, 1, 2)]).model_copy(update={"key": "o" * 12})
    found = agreements_between(ours, other, 0.75)
    assert [(x.a, x.b, x.shared_frozen) for x in found] == [
        ("lima (kkkkkkkkkkkk)", "lima (oooooooooooo)", 3),
        ("dolly (kkkkkkkkkkkk)", "lima (oooooooooooo)", 2),
    ]


def test_rankings_of_other_layers_are_not_compared() -> None:
    ours = ranking_of(lima=[freezing(0)])
    other = ours.model_copy(update={"layers": ours.layers[1:], "key": "o" * 12})
    with pytest.raises(UserError, match=r"12 layers of tiny.* 11 others of tiny.*one architecture"):
        agreements_between(ours, other, 0.75)


def test_agreement_that_is_all_type_is_not_above_type_chance() -> None:
    keys = [i for i, layer in enumerate(LAYERS) if layer.type == "k_proj"]
    found, *_ = agreements(
        ranking_of(a=[freezing(*keys)], b=[freezing(*keys)]), keep=1 - len(keys) / len(LAYERS)
    )
    assert found.jaccard == found.chance_within_types_jaccard == 1.0
    assert found.above_chance
    assert not found.above_type_chance


def test_intersection_is_in_layer_order_with_its_size_by_chance() -> None:
    found = intersection(ranking_of(a=[freezing(7, 1, 4)], b=[freezing(4, 1, 0)]), 0.25)
    assert found.frozen == (NAMES[1], NAMES[4])
    assert (found.n_least, found.expected_size) == (3, 12 * (3 / 12) ** 2)
    assert found.expected_size_within_types == 3 * 2 / 4  # only keys are in both
