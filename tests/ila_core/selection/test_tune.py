"""Hyper-parameter search: the grid, what a trial comes to, and which trial is chosen."""

from __future__ import annotations

from typing import Any

import pytest

from ila_core.config import TuneGrid
from ila_core.config.load import load_profile
from ila_core.errors import UserError
from ila_core.selection.tune import (
    TrialResult,
    choose,
    doubts,
    overrides,
    trial_result,
    trials_table,
)

GRID = TuneGrid(lr=(1e-3, 2e-3, 5e-4), steps=(20, 60))
LORA = load_profile("smoke").finetune.lora
assert LORA is not None


def trial(lr: float, steps: int, *losses: float, arm: str = "all") -> TrialResult:
    return TrialResult(
        arm=arm, method="lora", lr=lr, epochs=None, steps=steps,
        losses={str(seed): loss for seed, loss in enumerate(losses)},
        best_step=f"{steps} of {steps}" if losses else None, seconds=1.0 if losses else None,
    )  # fmt: skip


RESULTS = [
    trial(1e-3, 20, 2.0, 2.2),
    trial(1e-3, 60, 1.9, 2.1),
    trial(2e-3, 20, 2.15, 2.15),
    trial(2e-3, 60),
    trial(5e-4, 60, 3.0, 3.0, arm="ila"),
]


def test_a_grid_is_every_rate_with_every_length() -> None:
    points = GRID.points()
    assert len(points) == 6
    assert points[1] == {"lr": 1e-3, "epochs": None, "steps": 60}
    halves = TuneGrid(lr=(1e-3,), epochs=(0.5, 1)).points()
    assert halves[0] == {"lr": 1e-3, "epochs": 0.5, "steps": None}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lora={lr: [1.0e-3]}", "tune.lora: give exactly one of `epochs` and `steps`"),
        ("lora={lr: [1.0e-3], epochs: [1], steps: [6]}", "give exactly one of"),
        ("lora={lr: [1.0e-3, 1.0e-3], steps: [6]}", "lr: 0.001 given more than once"),
        ("lora={lr: [0], steps: [6]}", "greater than 0"),
        ("lore={lr: [1], steps: [6]}", "did you mean 'finetune.tune.lora'"),
    ],
)
def test_a_wrong_grid_is_named(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_profile("smoke", [f"finetune.tune.{override}"])


def test_the_papers_grids() -> None:
    lengths = {"no_robots": (2, 3, 4, 5), "lima": (5, 10, 15, 20)}
    lengths["alpaca_gpt4"] = (0.5, 1, 1.5, 2, 3)
    for dataset, epochs in lengths.items():
        tune = load_profile(f"llama2-7b-{dataset}").finetune.tune
        assert tune is not None and tune.lora is not None and tune.full is not None
        assert tune.arms == ("all",)
        assert tune.lora.lr == (1e-3, 2e-3, 5e-4, 2e-4, 1e-4)
        assert tune.full.lr == (1e-4, 2e-5, 1e-5, 5e-6, 2e-6)
        assert tune.lora.epochs == tune.full.epochs == epochs


def test_the_choice_is_the_lowest_mean_over_seeds_of_each_arm() -> None:
    chosen = choose(RESULTS)
    assert chosen == {"all": RESULTS[1], "ila": RESULTS[4]}
    assert chosen["all"].loss == pytest.approx(2.0)
    assert chosen["all"].spread == pytest.approx(0.2)
    assert choose([trial(1e-3, 20)]) == {}


def test_what_a_choice_is_not_to_be_read_without() -> None:
    said = doubts(RESULTS[1], RESULTS, GRID)
    assert said[0] == "2 of 3 other trials lie within what its own seeds differ by (0.2000)"
    assert said[1:] == ["its length is the highest that was tried: a wider grid may do better"]
    assert doubts(trial(1e-3, 60, 1.0), RESULTS, TuneGrid(lr=(1e-3,), steps=(60,))) == []


def test_the_table_holds_all_trials_the_best_first_and_the_diverged_last() -> None:
    table = trials_table(RESULTS, choose(RESULTS))
    assert list(table["held-out loss"])[:4] == pytest.approx([2.0, 2.1, 2.15, 3.0])
    assert list(table[""]) == ["chosen", "", "", "chosen", "diverged"]
    assert list(table["length"]) == ["60 steps", "20 steps", "20 steps", "60 steps", "60 steps"]


def test_overrides_give_the_profile_the_chosen_point() -> None:
    for grid in (GRID, TuneGrid(lr=(1e-5,), epochs=(0.5,))):
        point = grid.points()[-1]
        best = trial(1e-3, 6, 1.0).model_copy(update=point)
        changed = load_profile("smoke", overrides(best, LORA)).finetune.lora
        assert changed == LORA.model_copy(update=point)


def test_a_trial_is_averaged_over_its_seeds() -> None:
    def finetune(*losses: float) -> dict[str, Any]:
        watched = [{"step": 15 * i, "loss": loss} for i, loss in enumerate(losses, 1)]
        return {"steps": 60, "seconds": 4.0 + losses[0], "watched": watched}

    found = trial_result(
        "all", "lora", LORA, {0: 2.0, 1: 2.2},
        [finetune(3.0, 2.0, 1.9), finetune(3.0, 2.0, 2.4)],
    )  # fmt: skip
    assert (found.best_step, found.loss, found.seconds) == ("30 of 60", pytest.approx(2.1), 7.0)
    lost = trial_result("all", "lora", LORA, {}, [])
    assert lost.diverged
    assert (lost.loss, lost.best_step, lost.seconds) == (None, None, None)
