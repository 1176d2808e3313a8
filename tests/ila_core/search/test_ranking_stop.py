"""Probes on the way through stage 1: they change no step, and end it when the ranking rests."""

import shutil
import sys

import pytest

from ila_core.config import RankingStopSettings, Schedule, ScorerSettings, Stage1Settings
from ila_core.errors import UserError
from ila_core.models.layers import layers_of
from ila_core.search.ranking_stop import RankingStop
from ila_core.search.scorers import SCORERS
from ila_core.search.scoring import Material
from ila_core.search.stage1 import learn_adapter
from ila_core.train.checkpoints import CheckpointFolder
from ila_core.train.loop import TrainRuntime
from ila_core.train.methods.lora import load_adapter
from tests.helpers import tiny

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
        runtime=TrainRuntime(checkpoints=checkpoints, progress=True),
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


def test_a_ranking_at_rest_ends_stage_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    whole = run(tmp_path / "whole")
    assert "ends here" not in capsys.readouterr().err
    stopped = run(tmp_path / "stopped", settings())
    assert "ends here: ranking stable" in capsys.readouterr().err.splitlines()[-1]
    assert stopped.steps == 8  # the fourth probe is the third that agrees with the one before
    assert (stopped.stable, stopped.stable_by, stopped.stable_at) == (True, "ranking", 8)
    assert stopped.losses == whole.losses[:8]
    assert stopped.planned_steps == STEPS
    assert [probe.jaccard is None for probe in stopped.probes] == [True, False, False, False]


@pytest.mark.slow
@pytest.mark.never_rerun
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


@pytest.mark.parametrize(
    "scorer", [n for n, x in SCORERS.items() if x.needs in ("adapter", "rows")]
)
def test_a_scorer_sees_on_the_way_what_it_sees_afterwards(tmp_path, scorer):
    probed = run(tmp_path / scorer, settings(scorer=scorer, every=0.5))
    assert probed.losses == run(tmp_path / "plain").losses
    model = load_adapter(tiny.model(), tmp_path / scorer / "adapter")
    scoring = settings().scoring
    material = Material(layers_of(tiny.model()), model, tiny.rows(40), scoring, 0, 8)
    afterwards = SCORERS[scorer].score(material).scores
    assert len(set(afterwards.values())) == 15
    assert probed.probes[-1].step == STEPS
    assert probed.probes[-1].scores == pytest.approx(afterwards, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("keep", [0.01, 0.99])
def test_a_rule_that_keeps_all_layers_or_none_is_refused(keep):
    with pytest.raises(UserError, match=r"ranking_stop.keep 0.\d+ keeps (0|15) of 15 layers"):
        RankingStop(
            layers_of(tiny.model()), [], settings(keep=keep), planned=9, seed=0, micro_batch=8
        )
