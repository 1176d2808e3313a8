"""Looks at the ranking on the way: they change no step, and end a stage when the ranking rests."""

import shutil

import pytest
import tiny

from ila_core.checkpoints import CheckpointFolder
from ila_core.config import (
    RankingStopSettings,
    RestSettings,
    Schedule,
    ScorerSettings,
    Stage1Settings,
    Stage2Settings,
)
from ila_core.gates import learn_gates
from ila_core.layers import layers_of
from ila_core.ranking_stop import RankingStop, at_rest, kept_agreement
from ila_core.stage1 import learn_adapter
from ila_core.train import Circumstance

pytestmark = tiny.STRICT
STAGE1 = Stage1Settings(
    lora=tiny.LORA.model_copy(update={"dropout": 0.1}),  # a probe that drew would be noticed
    optimizer=tiny.OPTIMIZER.model_copy(update={"warmup_ratio": 0.1}),
    stability=tiny.STABILITY.model_copy(update={"epsilon": 1e-9}),
)
STEPS = 20


def settings(**changes):
    return RankingStopSettings(
        **{
            "scorer": "integrated_gradients",
            "scoring": ScorerSettings(rows="train", batches=2, batch_size=8),
            "every": 0.1,
            "keep": 0.75,
            "agree": 0.0,
            "patience": 3,
            **changes,
        }
    )


def run(folder, stop_settings=None, checkpoints=None):
    rows = tiny.rows(40)
    stop = stop_settings and RankingStop(
        layers_of(tiny.model()), rows, stop_settings, planned=STEPS, seed=0, micro_batch=8
    )
    return learn_adapter(
        tiny.model(),
        tiny.layers(tiny.model()),
        rows,
        STAGE1,
        Schedule(lr=1e-2, steps=STEPS),
        seed=0,
        adapter_folder=folder / "adapter",
        ranking_stop=stop,
        circumstance=Circumstance(checkpoints=checkpoints),
    )


def weights(folder):
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def test_probes_that_never_agree_change_nothing(tmp_path):
    plain = run(tmp_path / "plain")
    probed = run(tmp_path / "probed", settings(agree=1.0, patience=100))
    assert [probe.step for probe in probed.probes] == list(range(2, STEPS + 1, 2))
    assert probed.losses == plain.losses
    assert weights(tmp_path / "probed") == weights(tmp_path / "plain")
    assert (probed.stable, probed.stable_by) == (False, None)


def test_a_ranking_at_rest_ends_stage_1(tmp_path):
    whole = run(tmp_path / "whole")
    stopped = run(tmp_path / "stopped", settings())
    assert stopped.steps == 8  # the fourth probe is the third that agrees with the one before
    assert (stopped.stable, stopped.stable_by, stopped.stable_at) == (True, "ranking", 8)
    assert stopped.losses == whole.losses[:8]
    assert stopped.planned_steps == STEPS
    assert [probe.jaccard is None for probe in stopped.probes] == [True, False, False, False]


def test_resumed_between_probes_it_stops_where_it_would_have(tmp_path):
    undisturbed = run(tmp_path / "undisturbed", settings())
    folder = CheckpointFolder(tmp_path / "checkpoints", 0.0)
    run(tmp_path / "first", settings(), folder)
    kept = [path.name for path in folder.found()]
    assert kept == ["checkpoint-6", "checkpoint-7"]  # none where it stopped
    shutil.rmtree(tmp_path / "first")
    resumed = run(tmp_path / "first", settings(), folder)
    assert resumed.probes == undisturbed.probes
    assert weights(tmp_path / "first") == weights(tmp_path / "undisturbed")


@pytest.mark.parametrize("scorer", ["integrated_gradients", "gate_gradient", "fisher"])
def test_every_scorer_that_needs_gradients_can_look_on(tmp_path, scorer):
    probed = run(tmp_path / scorer, settings(scorer=scorer, every=0.5))
    assert probed.losses == run(tmp_path / "plain").losses


STAGE2 = Stage2Settings(
    rows="train",
    batches=20,
    batch_size=8,
    initial_score=0.0,
    optimizer="sgd",
    lr=5.0,
    weight_decay=0.0,
    schedule="cosine",
    max_grad_norm=0.0,
)


def gates(folder, **stop):
    rest = RestSettings(**{"every": 0.1, "keep": 0.75, "agree": 0.0, "patience": 3, **stop})
    settings = STAGE2.model_copy(update={"ranking_stop": rest if stop else None})
    return learn_gates(tiny.model(), folder / "adapter", tiny.rows(40), settings, seed=0)


def test_gates_whose_ranking_rests_are_learned_no_further(tmp_path):
    run(tmp_path)
    whole, stopped = gates(tmp_path), gates(tmp_path, agree=0.0)
    assert (whole.batches, whole.looks) == (20, [])
    assert stopped.batches == 8  # the fourth look is the third that agrees with the one before
    assert [step for step, _ in stopped.looks] == [2, 4, 6, 8]
    assert stopped.losses == whole.losses[:8]
    assert stopped.history == whole.history[:8]
    assert stopped.history[-1] == (8, stopped.scores)
    assert gates(tmp_path, patience=100).scores == whole.scores


def test_the_scores_of_an_early_stop_are_the_last_of_the_history(tmp_path):
    run(tmp_path)
    long = STAGE2.model_copy(
        update={
            "batches": 50,  # of which every second or third is in the history
            "ranking_stop": RestSettings(every=0.02, keep=0.75, agree=0.0, patience=3),
        }
    )
    result = learn_gates(tiny.model(), tmp_path / "adapter", tiny.rows(40), long, seed=0)
    assert [step for step, _ in result.history] == [2, 4]
    assert result.history[-1] == (result.batches, result.scores)


def test_agreement_is_of_the_kept_layers_and_ties_go_by_layer_order():
    before = {"a": 3.0, "b": 2.0, "c": 1.0, "d": 0.0}
    assert kept_agreement(before, {"a": 0.5, "b": 0.5, "c": 0.0, "d": 0.0}, 0.5) == 1.0
    assert kept_agreement(before, {"a": 9.0, "b": 0.0, "c": 9.0, "d": 0.0}, 0.5) == 1 / 3
    assert kept_agreement(before, {"a": 0.0, "b": 0.0, "c": 9.0, "d": 9.0}, 0.5) == 0.0
    assert kept_agreement({"a": 1.0}, {"a": 1.0}, 0.3) == 1.0  # nothing is kept


@pytest.mark.parametrize(
    ("jaccards", "rests"),
    [
        ([None], False),
        ([None, 1.0], False),
        ([None, 1.0, 0.93], True),
        ([None, 1.0, 0.92, 1.0], False),
        ([None, 0.2, 1.0, 1.0], True),
    ],
)
def test_rest_is_several_agreements_in_a_row(jaccards, rests):
    rest = RestSettings(every=0.1, keep=0.75, agree=0.93, patience=2)
    assert at_rest(jaccards, rest) is rests
