"""Paired comparisons: against hand-computed numbers, scipy, and the truth of simulations."""

from __future__ import annotations

import math
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ila_core.compare.arms import Comparison, compare
from ila_core.compare.chance import all_at_chance, at_chance, interval
from ila_core.compare.quantiles import half_width
from ila_core.compare.seed_variance import half_over_seeds
from ila_core.compare.tables import comparison_notes, comparison_table
from ila_core.errors import UserError
from tests.helpers.evaluated import accuracy, grades, losses

VALUES = st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=30)


def two(a, b, **settings) -> Comparison:
    arms = {name: {e[0].benchmark: e} for name, e in (("a", a), ("b", b))}
    return compare(arms, against="b", **settings)


@pytest.mark.parametrize("df", [1, 1.5, 2, 7.3, 79, 999])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.998])
def test_students_quantile_is_scipys(df: float, confidence: float) -> None:
    assert half_width(confidence, df) == pytest.approx(
        stats.t.ppf((1 + confidence) / 2, df), rel=1e-4
    )
    assert half_width(confidence) == pytest.approx(stats.norm.ppf((1 + confidence) / 2))


@pytest.mark.parametrize(("right", "n", "chance"), [(30, 100, 0.25), (12, 30, 0.25), (7, 9, 0.5)])
def test_at_chance_is_scipys_exact_binomial_test(right: int, n: int, chance: float) -> None:
    found = accuracy([1] * right + [0] * (n - right), chance=chance)
    p = stats.binomtest(right, n, chance).pvalue
    assert at_chance(found, 1 - p + 1e-6)
    assert not at_chance(found, 1 - p - 1e-6)


def test_guessers_stand_at_chance_and_others_do_not() -> None:
    rng = np.random.default_rng(0)
    guessers = [accuracy(rng.random(400) < 0.25) for _ in range(300)]
    assert 0.92 <= np.mean([at_chance(x, 0.95) for x in guessers]) <= 0.99
    triples = [guessers[i : i + 3] for i in range(0, 300, 3)]
    assert np.mean([all_at_chance(x, 0.95) for x in triples]) >= 0.92
    assert not at_chance(accuracy(rng.random(400) < 0.4), 0.95)
    assert not at_chance(accuracy(np.zeros(400)), 0.95)  # below it, and as far from it
    assert not at_chance(accuracy([1, 0, 0, 0], chance=None), 0.95)
    assert at_chance(losses([40, 44, 42, 41, 43], chance=4.2), 0.95)
    assert not at_chance(losses([40, 44, 42, 41, 43], chance=5.0), 0.95)


def test_the_interval_of_an_accuracy_is_wilsons() -> None:
    expected = stats.binomtest(7, 50).proportion_ci(0.95, method="wilson")
    assert interval(accuracy([1] * 7 + [0] * 43), 0.95) == pytest.approx(tuple(expected))
    low, high = interval(losses([20, 40], [10, 10]), 0.95)
    assert (low, high) == (2.0, 4.0)


def test_accuracies_have_agresti_and_mins_interval() -> None:
    """Their Section 3: b = 5 and c = 1 of n = 40, half a pair added to each of the four cells."""
    a = accuracy([1] * 5 + [0] * 1 + [1] * 34)
    b = accuracy([0] * 5 + [1] * 1 + [1] * 34)
    found = two([a], [b]).compared[0]
    n, by, cy = 42, 5.5, 1.5
    half = 1.959964 * math.sqrt(by + cy - (by - cy) ** 2 / n) / n
    assert found.difference == pytest.approx(4 / 40)
    assert (found.low, found.high) == pytest.approx(((by - cy) / n - half, (by - cy) / n + half))
    same = two([a], [a]).compared[0]
    assert same.low < 0 < same.high  # never certain because nothing differed


def test_loss_is_weighted_and_lower_is_better() -> None:
    found = two([losses([10, 4], [1, 3])], [losses([4, 4], [1, 3])]).compared[0]
    assert (found.difference, found.low, found.high) == (1.5, 0.0, 6.0)
    assert found.sign * found.difference == -1.5


@settings(max_examples=25, deadline=None)
@given(VALUES, st.data())
def test_the_other_way_round_is_the_mirror_image(a: list[float], data: st.DataObject) -> None:
    b = data.draw(st.lists(st.floats(-5, 5, width=32), min_size=len(a), max_size=len(a)))
    for make in (losses, lambda x: accuracy([v > 0 for v in x])):
        one = two([make(a)], [make(b)], resamples=200).compared[0]
        other = two([make(b)], [make(a)], resamples=200).compared[0]
        assert one.difference == pytest.approx(-other.difference)
        assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(0, 1000))
def test_more_of_the_same_items_narrow_the_interval(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=n), rng.normal(size=n)
    once = two([losses(a)], [losses(b)]).compared[0]
    four = two([losses(np.tile(a, 4))], [losses(np.tile(b, 4))]).compared[0]
    assert four.difference == pytest.approx(once.difference)
    assert four.standard_error < 0.51 * once.standard_error * math.sqrt((4 * n - 4) / (4 * n - 1))
    assert four.high - four.low < once.high - once.low


@pytest.mark.parametrize("make", [losses, accuracy])
def test_simultaneous_intervals_hold_the_truth(make) -> None:
    """Three benchmarks: all intervals at once in about 90 % of 150 draws, no fewer."""
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(150):
        arms: dict[str, dict] = {"a": {}, "b": {}}
        for benchmark in "xyz":
            hard = rng.random(120)
            for name, gain in (("a", 0.1), ("b", 0.0)):
                drawn = rng.random(120) < 0.6 * hard + gain
                noisy = 10 * (hard + gain + rng.normal(size=120))
                made = make(drawn if make is accuracy else noisy, benchmark=benchmark)
                arms[name][benchmark] = [made]
        found = compare(arms, against="b", confidence=0.9, resamples=1000, seed=seed).compared
        held += all(x.low <= 0.1 <= x.high for x in found)
    assert held >= 0.85 * 150


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("items", [0.0, 1.0, 10.0])
def test_intervals_over_seeds_hold_the_truth(seeds: int, items: float) -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        a, b, gap = rng.normal(size=seeds), rng.normal(size=seeds), items * rng.normal(size=100)
        parts = [(x.var(ddof=1) / len(x), len(x)) for x in (gap, a, b)]
        held += abs(a.mean() - b.mean() + gap.mean()) < half_over_seeds(0.95, *parts)
    assert held >= 0.92 * 400


def test_seeds_items_and_repeats_stand_apart() -> None:
    rng = np.random.default_rng(0)
    base = 10 * rng.normal(2, 1, size=200)
    arms = [[losses(base + 10 * shift) for shift in shifts] for shifts in ((0, 0.2), (0.1, 0.1))]
    found = two(*arms).compared[0]
    assert found.by_seed_a[1] - found.by_seed_a[0] == pytest.approx(0.2)
    assert (found.difference, found.high - found.low) == pytest.approx((0, 0), abs=1e-9)
    assert found.over_seeds is not None
    assert found.over_seeds.variance_a == pytest.approx(0.2**2 / 2 / 2)
    assert found.over_seeds.variance_b == pytest.approx(0, abs=1e-12)
    # One arm's two seeds alone vary: Student's with one degree of freedom.
    assert found.over_seeds.high == pytest.approx(0.1 * stats.t.ppf(0.975, 1), rel=1e-4)
    one = two(arms[0][:1], arms[1][:1]).compared[0]
    assert (one.over_seeds, one.between_repeats) == (None, None)


def test_seeds_that_differ_on_other_items_each_are_told_from_seeds_that_differ() -> None:
    """By the variances that went in: 0.3 between seeds, and 1 between seeds on each item."""
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(200):
        seeds = 0.3 * rng.normal(size=(3, 1)) + rng.normal(size=(3, 100))
        arm = [losses(10 * x) for x in seeds + rng.normal(size=100)]
        found = two(arm, [losses(np.zeros(100))], resamples=1).compared[0].over_seeds
        assert found is not None and (found.variance_b, found.by_item_b) == (0, 0)
        parts.append((found.variance_a, found.by_item_a))
    whole, by_item = np.mean(parts, axis=0)
    assert whole == pytest.approx((0.3**2 + 1 / 100) / 3, rel=0.1)
    assert by_item == pytest.approx(1 / 100 / 3, rel=0.1)


def test_judging_again_is_a_spread_of_its_own() -> None:
    a = grades({"x": (5.0, 6.0, 6.0), "y": (7.0, 8.0, 8.0)})  # means 6, 7, 7
    b = grades({"x": (5.0, 5.0, 5.0), "y": (5.0, 5.0, 5.0)})
    found = two([a], [b]).compared[0]
    assert found.between_repeats == pytest.approx(math.sqrt(1 / 3))
    assert two([a, a], [b]).compared[0].between_repeats == pytest.approx(math.sqrt(1 / 6))


def test_answers_that_were_not_graded_are_left_out_and_counted() -> None:
    a = grades({"x": (5.0,), "y": (7.0,), "z": (1.0,)})
    found = two([a], [grades({"x": (4.0,), "y": (6.0,), "w": (9.0,)})]).compared[0]
    assert (found.items, found.left_out, found.difference) == (2, 2, 1.0)
    assert fmean(found.by_seed_a) - fmean(found.by_seed_b) == pytest.approx(found.difference)


def test_what_was_not_measured_alike_is_refused() -> None:
    a = grades({"x": (5.0,), "y": (7.0,)}, comparable={"judge": "p", "limit": None})
    b = grades({"x": (5.0,), "y": (7.0,)}, comparable={"judge": "q"})
    with pytest.raises(UserError, match="judge is 'p' and 'q'; limit is None and 'not given'"):
        two([a], [b])
    with pytest.raises(UserError, match="'a' and 'a' cannot be compared: judge"):
        two([a, b], [a])
    with pytest.raises(UserError, match="1 items were answered in one and not in the other"):
        two([accuracy([1, 0, 1])], [accuracy([1, 0])])
    with pytest.raises(UserError, match=r"1 items differ in weight \(1\).*same tokenizer"):
        two([losses([1, 2], [3, 4])], [losses([1, 2], [3, 5])])
    with pytest.raises(UserError, match="have 1 items in common"):
        two([accuracy([1])], [accuracy([1])])
    with pytest.raises(UserError, match=r"nothing to compare with 'b'.*missing is mmlu of 'b'"):
        two([accuracy([1, 0])], [losses([1, 2])])
    with pytest.raises(UserError, match="unknown arm 'c'"):
        compare({"a": {}}, against="c")


def test_the_table_states_the_multiplicity_and_what_is_missing() -> None:
    right = np.arange(200) % 4 == 0
    arms = {
        "all": {"mmlu": [accuracy(right)]},
        "ila": {"mmlu": [accuracy(right), accuracy(~right)]},
        "base": {"mmlu": [accuracy(right)], "held_out_loss": [losses([1, 2])]},
    }
    comparison = compare(arms, against="all")
    table, notes = comparison_table(comparison), " ".join(comparison_notes(comparison))
    assert list(table["arm"]) == ["ila", "base"]
    assert list(table["value"]) == ["0.5000 (0.2500 to 0.7500)", "0.2500 at chance"]
    assert "97.50% intervals" in notes and "all 2 hold at once with 95% (Bonferroni)" in notes
    assert "not evaluated: held_out_loss of 'all'" in notes
    assert "re-judged" not in table and "Re-judged" not in notes
