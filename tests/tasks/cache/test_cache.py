"""A second run computes nothing; a change recomputes what depends on it; damage is no hit."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.pipeline import ila_pipeline
from ila_core.config import RuntimeConfig
from ila_core.config.load import load_profile, shipped
from ila_core.errors import UserError
from ila_core.resolve import Lock
from tasks.tracking.client import sqlite_path
from tests.conftest import ROOT, STEPS, kill, wait_until

pytestmark = pytest.mark.never_rerun


def states(plan):
    return {step["step"]: step["state"] for step in plan["steps"]}


def test_again_computes_nothing(finished):
    answer = finished.json("run", "smoke")
    assert answer["computed"] == 0
    assert answer["cached"] == len(answer["steps"]) == STEPS
    assert "Agree" in "".join(answer["headline"]) or answer["headline"]


def test_a_cached_run_starts_neither_prefect_nor_torch_nor_mlflow(finished):
    code = """
import sys
from flows.cli.app import app
try:
    app(["run", "smoke"], standalone_mode=False)
finally:
    heavy = {"torch", "prefect", "mlflow", "transformers", "pandas"} & set(sys.modules)
    assert not heavy, heavy
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=ROOT, env=finished.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "nothing was computed" in done.stdout


def test_a_plan_names_the_field_that_differs(finished):
    plan = finished.json("plan", "smoke", "--set", "finetune.lora.lr=1.0e-3")
    missed = {step["step"]: step["reason"] for step in plan["steps"] if step["state"] == "MISS"}
    assert {name.split()[0] for name in missed} == {"finetune", "held_out_loss", "report"}
    assert missed["finetune all seed 0"] == "settings.lr: 0.002 -> 0.001"
    assert "held_out_loss base" not in missed


def test_another_dataset_recomputes_only_what_depends_on_it(finished, tmp_path):
    tree = yaml.safe_load(shipped("runs")["smoke"].read_text())
    tree["name"] = "smoke"
    rows = (ROOT / "ila_core/demo/data/terse.jsonl").read_text().splitlines()[:300]
    (tmp_path / "more.jsonl").write_text("\n".join(rows))
    tree["datasets"].append({"name": "more", "source": str(tmp_path / "more.jsonl")})
    tree["search"]["schedules"]["more"] = tree["search"]["schedules"]["terse"]
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(tree))
    found = states(finished.json("plan", str(tmp_path / "more.yaml")))
    missed = {step for step, state in found.items() if state == "MISS"}
    intersection = {f"{s} intersection" for s in ("selection",)} | {
        f"{s} intersection seed {seed}" for s in ("finetune", "held_out_loss") for seed in (0,)
    }
    own = {"prepare more"} | {
        f"{kind} more seed 0"
        for kind in ("stage1", "stage2", "score integrated_gradients", "score lora_norm", "mask")
    }
    assert missed == own | intersection | {"ranking", "agreement", "report"}


@pytest.mark.parametrize("address", ["mlflow.db", "/tmp/a b/mlflow.db", "/tmp/a%20b.db?timeout=9"])
def test_the_file_of_an_sqlite_address_is_where_mlflow_has_it(address):
    from sqlalchemy import make_url

    uri = f"sqlite:///{address}"
    assert sqlite_path(uri) == Path(make_url(uri).database).absolute()


def test_a_home_with_odd_characters_has_its_store_inside(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("ILA_HOME", str(tmp_path / "a %20#b"))
    runtime = RuntimeConfig.from_env()
    assert sqlite_path(runtime.tracking_uri) == runtime.home / "mlflow.db"
    monkeypatch.setenv("ILA_HOME", str(tmp_path / "what?"))
    with pytest.raises(UserError, match="without a question mark"):
        RuntimeConfig.from_env()


def test_datasets_of_equal_content_share_their_steps(finished, tmp_path):
    tree = yaml.safe_load(shipped("runs")["smoke"].read_text())
    tree["datasets"].append({**tree["datasets"][0], "name": "twin"})
    tree["search"]["schedules"]["twin"] = tree["search"]["schedules"]["terse"]
    (tmp_path / "twin.yaml").write_text(yaml.safe_dump(tree))
    found = states(finished.json("plan", str(tmp_path / "twin.yaml")))
    assert not any("twin" in step for step in found)
    assert found["stage1 terse seed 0"] == "HIT"
    page = ila_pipeline(
        load_profile(str(tmp_path / "twin.yaml")), Lock(tmp_path, online=False)
    ).report
    told = {label: part.key for label, part in page.inputs.items() if part.name == "stage1"}
    assert len(told) == 4 and told["stage1 twin seed 0"] == told["stage1 terse seed 0"]


def test_a_payload_on_a_disk_that_is_not_here_is_no_damage(finished, tmp_path):
    ila = finished.copied(tmp_path / "home")
    key = ila.json("run", "smoke")["ranking"]
    (ila.home / "artifacts").rename(tmp_path / "elsewhere")
    message = ila("rankings", "show", key, expect=1)
    assert "written on another machine, or deleted" in message
    (tmp_path / "elsewhere").rename(ila.home / "artifacts")
    assert ila.json("rankings", "show", key)["scorer"] == "ila"


@pytest.mark.slow
def test_a_damaged_payload_is_refused_and_computed_anew(finished, tmp_path):
    ila = finished.copied(tmp_path / "home")
    key = ila.json("run", "smoke")["ranking"]
    (ranking,) = ila.home.glob("artifacts/*/artifacts/payload/ranking.json")
    ranking.write_text(ranking.read_text().replace('"ila"', '"ilb"', 1))
    code, listed, warned = ila.ended("rankings", "list")
    assert (code, listed) == (0, "") and f"{key} cannot be read: " in warned
    message = ila("rankings", "show", key, expect=1)
    assert "does not match the digest" in message
    assert "Traceback" not in message
    assert ila.json("run", "smoke", "--refresh", key, "--reason", "damaged")["computed"] >= 1
    assert ila.json("rankings", "show", key)["scorer"] == "ila"


def test_a_changed_byte_of_data_is_seen(finished, tmp_path):
    data = tmp_path / "terse.jsonl"
    shutil.copyfile(ROOT / "ila_core/demo/data/terse.jsonl", data)
    moved = ("--set", f"datasets.0.source={data}")
    assert set(states(finished.json("plan", "smoke", *moved)).values()) == {"HIT"}
    text = data.read_text()
    data.write_text(text.replace("needle", "noedle", 1))
    assert data.read_text() != text
    assert states(finished.json("plan", "smoke", *moved))["prepare terse"] == "MISS"


def test_runtime_settings_change_no_key(finished):
    other = {"ILA_MICRO_BATCH": "3", "ILA_EVAL_BATCH": "5", "ILA_CHECKPOINT_SECONDS": "0"}
    plan = finished.json("plan", "smoke", ILA_DEVICE="cpu", **other)
    assert set(states(plan).values()) == {"HIT"}


@pytest.mark.slow
def test_one_is_killed_in_its_training_and_two_at_once_go_on(finished, ila):
    """What tests/flows/test_together.py does with small steps, once with real ones."""
    checkpoints = ila.home / "checkpoints"
    killed = ila.start("search", "smoke", ILA_CHECKPOINT_SECONDS="0")
    try:
        wait_until(lambda: any(checkpoints.glob("*/checkpoint-*/complete.json")), killed)
    finally:
        kill(killed)
    before = len(ila.digests())
    both = [ila.start("search", "smoke", "--json") for _ in range(2)]
    answers = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    found = [json.loads(out) for out, _ in answers]
    assert sum(one["computed"] for one in found) == len(found[0]["steps"]) - before
    assert list(checkpoints.iterdir()) == []
    assert ila.digests().items() <= finished.digests().items()
