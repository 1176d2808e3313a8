"""Keys: changed by every field that is identity, by none that is circumstance."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

from flows.pipeline import ila_pipeline
from ila_core.lock import Lock
from ila_core.profiles import load_profile
from tasks.step import in_order

STAGE1 = {"stage1", "stage2", "ranking"}
TUNED = {"finetune", "evaluation"}
CASES = {
    # override: kinds of step whose keys change (the report's always does)
    "data.max_length=48": {"prepare", *STAGE1, *TUNED, "agreement", "selection"},
    "data.split_seed=1": {"prepare", *STAGE1, *TUNED, "agreement", "selection"},
    'model.template="{{ messages }}"': {"prepare", *STAGE1, *TUNED, "agreement", "selection"},
    "model.dtype=bfloat16": {*STAGE1, *TUNED, "agreement", "selection"},
    "search.stage1.lora.r=4": {*STAGE1, *TUNED, "agreement", "selection"},
    "search.stage1.optimizer.beta2=0.95": {*STAGE1, *TUNED, "agreement", "selection"},
    "search.stage1.stability.epsilon=0.4": {*STAGE1, *TUNED, "agreement", "selection"},
    "search.schedules.terse.lr=1.0e-3": {*STAGE1, *TUNED, "agreement", "selection"},
    "search.stage2.initial_score=1": {"stage2", "ranking", *TUNED, "agreement", "selection"},
    "search.stage2.lr=1": {"stage2", "ranking", *TUNED, "agreement", "selection"},
    "search.keep=0.5": {"agreement", "selection", *TUNED},
    "search.least=0.5": {"agreement", "selection", *TUNED},
    "finetune.lr=1.0e-3": TUNED,
    "finetune.lora.alpha=8": TUNED,
    "finetune.optimizer.weight_decay=0": TUNED,
    "finetune.arms.3.seed=5": {"selection", *TUNED},
    "evaluate.resamples=500": set(),
    "evaluate.confidence=0.9": set(),
}


def keys(overrides, home):
    """Key of every step, by kind and label."""
    pipeline = ila_pipeline(load_profile("smoke", overrides), Lock(home, online=False))
    return {(step.name, step.label): step.key for step in in_order(*pipeline.targets("report"))}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("keys")


@pytest.mark.parametrize("override", CASES)
def test_identity_changes_exactly_the_keys_it_reaches(override, home):
    before, after = keys([], home), keys([override], home)
    changed = {kind for (kind, label), key in after.items() if before[kind, label] != key}
    assert changed == CASES[override] | {"report"}


def test_names_and_places_change_no_key(home, tmp_path):
    (tmp_path / "moved.jsonl").write_bytes((ROOT / "ila_core/demo/data/terse.jsonl").read_bytes())
    assert keys([f"datasets.0.path={tmp_path / 'moved.jsonl'}"], home) == keys([], home)
    renamed = keys(["finetune.arms.1.name=other", "finetune.arms.3.like=other"], home)
    assert {k for (kind, _), k in renamed.items() if kind != "report"} == {
        k for (kind, _), k in keys([], home).items() if kind != "report"
    }


def test_a_change_of_one_dataset_leaves_the_others_alone(home):
    before, after = keys([], home), keys(["search.schedules.terse.lr=1.0e-3"], home)
    assert before["stage2", "stage2 instruct seed 0"] == after["stage2", "stage2 instruct seed 0"]
    assert before["finetune", "finetune all seed 0"] == after["finetune", "finetune all seed 0"]
    assert before["finetune", "finetune ila seed 0"] == after["finetune", "finetune ila seed 0"]


def test_equal_in_processes_with_other_hash_seeds(home):
    code = (
        "from pathlib import Path; from test_keys import keys; import sys; "
        "print(sorted(keys([], Path(sys.argv[1])).items()))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code, str(home)],
            env={
                **os.environ,
                "PYTHONHASHSEED": seed,
                "PYTHONPATH": f"{ROOT}:{ROOT}/tests:{ROOT}/tests/orchestration",
            },
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert outputs == {f"{sorted(keys([], home).items())}\n"}
