"""`ila tune`: trials share steps with the run, outlive one that diverges, end with their parent."""

import json
import os
import signal
import sqlite3
import sys
from contextlib import closing

import psutil
import pytest

from flows.actions import tune
from flows.pipeline import ila_pipeline
from ila_core.config import RuntimeConfig
from ila_core.config.load import load_profile
from ila_core.errors import CheckError
from ila_core.resolve import Lock
from tasks.cache.step import in_order
from tasks.cache.store import Store
from tasks.run.execute import run_here
from tasks.run.supervise import run_child
from tests.conftest import ROOT, kill, wait_until

OWN, DIVERGES = 2.0e-3, 1.0e20
THREE = f"finetune.tune.lora={{lr: [{OWN}, 1.0e-3, 1.0e+20], steps: [6]}}"


def pipeline(overrides, home):
    return ila_pipeline(load_profile("smoke", overrides), Lock(home, online=False))


@pytest.fixture(scope="module")
def tuned(finished, prefect, tmp_path_factory):
    """A home in which `smoke` has run, and what `ila tune` answers there, two jobs at once."""
    home = finished.copied(tmp_path_factory.mktemp("tuned") / "home", prefect)
    return home, home.json("tune", "smoke", "--jobs", "2", "--set", THREE)


def runs(home):
    with closing(sqlite3.connect(home / "mlflow.db")) as connection:
        return connection.execute("SELECT count(*) FROM runs").fetchone()[0]


def test_a_trial_at_the_profiles_own_point_is_the_profiles_own_arm(tmp_path):
    found = pipeline([], tmp_path)
    own = next(t for t in found.trials if t.settings.lr == OWN)
    assert own.tuned[0].key == found.arms.tuned["all"][0].key
    assert own.evaluated[0].key in {step.key for step in found.arms.evaluated}
    other = next(t for t in found.trials if t.settings.lr != OWN)
    assert {step.key for step in other.shared} == {step.key for step in own.shared}
    assert other.tuned[0].key != own.tuned[0].key
    assert other.tuned[0].label == "finetune all lora lr 0.001, 6 steps seed 0"


def test_a_grid_changes_no_key_of_the_run(tmp_path):
    def keys(overrides):
        steps = in_order(*pipeline(overrides, tmp_path).targets("report"))
        return {step.label: step.key for step in steps if step.name != "report"}

    assert keys([THREE]) == keys(["finetune.tune=null"]) == keys([])


def test_only_arms_that_are_tuned_and_have_a_grid_are_tried(tmp_path):
    assert pipeline(["finetune.tune=null"], tmp_path).trials == ()
    assert pipeline(["finetune.method=full"], tmp_path).trials == ()
    both = pipeline(["finetune.tune.arms=[ila, all]", "finetune.seeds=[0, 1]"], tmp_path).trials
    assert [(t.arm, t.settings.lr, list(t.tuned)) for t in both] == [
        (arm, lr, [0, 1]) for arm in ("all", "ila") for lr in (OWN, 1.0e-3)
    ]
    scores = {step.name for trial in both for step in in_order(*trial.shared)}
    assert {"stage1", "stage2"} < scores  # of the arm `ila`: finished before any trial


@pytest.mark.slow
def test_every_trial_is_in_the_answer_and_the_lowest_loss_is_chosen(tuned):
    home, answer = tuned
    assert [trial["lr"] for trial in answer["trials"]] == [OWN, 1.0e-3, DIVERGES]
    assert [trial["diverged"] for trial in answer["trials"]] == [False, False, True]
    assert (answer["computed"], answer["cached"]) == (2, 1)  # the own point came with `ila run`
    losses = [trial["loss"] for trial in answer["trials"][:2]]
    best = answer["chosen"]["all"]
    assert best["loss"] == min(losses)
    changed = [word for line in best["set"] for word in ("--set", line)]
    plan = home.json("plan", "smoke", *changed)
    states = {step["step"]: step["state"] for step in plan["steps"]}
    assert states["finetune all seed 0"] == states["held_out_loss all seed 0"] == "HIT"


@pytest.mark.slow
def test_again_it_computes_nothing_but_what_diverged(tuned):
    home, answer = tuned
    before = runs(home.home)
    again = home.json("tune", "smoke")
    assert (again["computed"], again["cached"]) == (0, 2)
    assert again["trials"] == answer["trials"][:2]
    assert runs(home.home) == before
    told = home("tune", "smoke")
    assert "all 2 trials cached" in told
    assert "--set finetune.lora.lr=" in told


@pytest.mark.slow
def test_a_trial_is_what_this_process_would_have_made(tuned, finished, tmp_path, monkeypatch):
    home, _ = tuned
    here = finished.copied(tmp_path / "home")
    monkeypatch.setenv("ILA_HOME", str(here.home))
    runtime = RuntimeConfig.from_env()
    trial = next(t for t in pipeline([THREE], here.home).trials if t.settings.lr == 1.0e-3)
    run_here(in_order(*trial.evaluated.values()), Store(runtime, "demo"), runtime)
    keys = {str(step.key) for step in (*trial.tuned.values(), *trial.evaluated.values())}
    ours, theirs = here.digests(), home.digests()
    assert {k: ours[k] for k in keys} == {k: theirs[k] for k in keys}


def test_where_every_trial_diverges_the_table_stands_and_the_command_fails(
    finished, monkeypatch, capsys
):
    for name, value in (finished.environment | {"ILA_PREFECT": "on"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tune, "_train", lambda planned, trials, jobs: trials)
    grid = "finetune.tune.lora={lr: [1.0e+20], steps: [6]}"
    with pytest.raises(CheckError, match="every trial of all diverged: try lower learn"):
        tune.run_tune("smoke", [grid], jobs=1, as_json=False)
    assert "diverged" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.never_rerun
def test_a_trial_ends_with_its_parent(finished, prefect, tmp_path):
    """By Ctrl-C; tests/tasks/run/test_supervise.py has the other ways to die."""
    home = finished.copied(tmp_path / "home", prefect)
    grid = "finetune.tune.lora={lr: [1.0e-3], steps: [1000000]}"
    process = home.start("tune", "smoke", "--set", grid, ILA_CHECKPOINT_SECONDS="0")
    try:
        checkpoints = home.home / "checkpoints"
        wait_until(lambda: any(checkpoints.glob("*/checkpoint-*/complete.json")), process)
        (child,) = (c for c in psutil.Process(process.pid).children() if _is_trial(c))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
        assert psutil.wait_procs([child], timeout=60)[1] == []
    finally:
        kill(process)
    assert process.returncode == 130
    assert err.rstrip().endswith("interrupted; the same command goes on where it stopped")


def _is_trial(process):
    try:
        return "flows.fan_out.child" in process.cmdline()
    except psutil.NoSuchProcess:  # it has ended since it was listed
        return False


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("finetune.tune.arms=[al]", "unknown arm in finetune.tune.arms 'al': did you mean 'all'"),
        ("finetune.method=full", "trained by full, for which there is no grid: give finetune.tune"),
        ("finetune.tune=null", "no grid to search: give finetune.tune"),
        ("finetune.tune.lora.lr=[high]", "finetune.tune.lora.lr.0"),
    ],
)
def test_wrong_input_exits_with_2(ila, override, message):
    error = ila("tune", "smoke", "--set", override, expect=2)
    assert message in error
    assert "Traceback" not in error


def test_no_jobs_are_refused(ila):
    assert "'--jobs'" in ila("tune", "smoke", "--jobs", "0", expect=2)


@pytest.mark.slow
def test_a_trial_of_other_data_says_so(tmp_path):
    profile = load_profile("smoke").model_dump_json()
    assert json.loads(profile)["name"] == "smoke"
    environment = {**os.environ, "ILA_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "flows.fan_out.child", "tune", "0123456789ab"]
    assert run_child(command, f"{profile}\n", tmp_path / "output", environment) == 1
    assert "changed meanwhile; run the same command again" in (tmp_path / "output").read_text()
