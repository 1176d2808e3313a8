"""The paired bootstrap: how often its interval is right, and what it weighs by."""

from __future__ import annotations

import numpy as np
import pytest

from ila_core.compare.bootstrap import paired_bootstrap
from ila_core.report.comparison import Difference
from tests.helpers.made_up import make_data


def test_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        tokens = rng.integers(20, 60, size=80).astype(float)
        gap = tokens * rng.normal(0.1, 0.3, size=80)
        _, low, high = paired_bootstrap(
            gap, np.zeros(80), tokens, resamples=400, confidence=0.9, seed=seed
        )
        covered += low < 0.1 < high
    assert 165 <= covered <= 193


def test_bootstrap_weighs_by_tokens_and_repeats_itself() -> None:
    a, b, tokens = np.array([10.0, 4.0]), np.array([4.0, 4.0]), np.array([1.0, 3.0])
    first = paired_bootstrap(a, b, tokens, resamples=1000, confidence=0.9, seed=1)
    assert first == (1.5, 0.0, 6.0)
    assert paired_bootstrap(a, b, tokens, resamples=1000, confidence=0.9, seed=1) == first


def test_bootstrap_is_paired() -> None:
    """What both arms find hard cancels: the interval is that of the differences alone."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 50, size=200).astype(float)
    base = tokens * rng.uniform(1, 5, size=200)
    settings = {"resamples": 2000, "confidence": 0.95, "seed": 0}
    assert paired_bootstrap(base + 0.1 * tokens, base, tokens, **settings) == pytest.approx(
        (0.1, 0.1, 0.1)
    )
    noisy = base + tokens * rng.normal(0.1, 0.5, size=200)
    difference, low, high = paired_bootstrap(noisy, base, tokens, **settings)
    assert difference == pytest.approx((noisy - base).sum() / tokens.sum())
    # Standard error of 200 conversations of deviation 0.5, unequally long.
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 200**0.5, rel=0.3)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(-0.2, -0.1, "better"), (0.1, 0.2, "worse"), (-0.1, 0.1, "no difference seen")],
)
def test_verdict_is_whether_the_interval_holds_zero(low: float, high: float, verdict: str) -> None:
    assert Difference(against="all", difference=0.0, low=low, high=high).verdict == verdict


def test_draws_do_not_depend_on_how_they_are_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a, b, tokens = rng.normal(size=50), rng.normal(size=50), np.full(50, 9.0)
    whole = paired_bootstrap(a, b, tokens, resamples=300, confidence=0.9, seed=1)
    monkeypatch.setattr("ila_core.compare.bootstrap._CHUNK", 700)
    assert paired_bootstrap(a, b, tokens, resamples=300, confidence=0.9, seed=1) == whole


def test_an_arm_is_compared_at_the_end_and_at_its_own_best_step() -> None:
    arms = {x.arm: x for x in make_data(gain=0.05, overfit=0.1).arms}
    every, ila = arms["all"], arms["ila"]
    assert (every.best_step, every.steps, every.overfits) == (120, 240, True)
    assert every.past_best is not None
    assert every.past_best.difference == pytest.approx(every.loss - every.best_loss)
    assert every.past_best.difference == pytest.approx(0.1, abs=0.01)
    assert (ila.best_step, ila.best_loss, ila.past_best) == (240, pytest.approx(ila.loss), None)
    assert not ila.overfits
    assert ila.versus is not None and ila.versus_at_best is not None
    assert ila.versus.difference == pytest.approx(ila.loss - every.loss)
    assert ila.versus_at_best.difference == pytest.approx(ila.best_loss - every.best_loss)
    assert (ila.versus.verdict, ila.versus_at_best.verdict) == ("better", "worse")
    for control in ila.controls:
        other = arms[control.against]
        assert control.difference == pytest.approx(ila.loss - other.loss)
        assert control.at_best.difference == pytest.approx(ila.best_loss - other.best_loss)


def test_the_base_has_no_step_and_stands_beside_the_others_at_their_best() -> None:
    base = make_data(overfit=0.1).arms[-1]
    assert (base.arm, base.steps, base.best_step, base.past_best) == ("base", None, None, None)
    assert base.versus is not None and base.versus_at_best is not None
    assert base.versus_at_best.difference > base.versus.difference
