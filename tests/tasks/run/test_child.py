"""A step in a process of its own: its result and its errors arrive, nothing computed is lost."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from flows.pipeline import ila_pipeline
from ila_core.config import RuntimeConfig
from ila_core.config.load import load_profile
from ila_core.errors import CheckError, UserError
from ila_core.resolve import Lock
from tasks.cache.lookup import open_lookup
from tasks.cache.step_run import upstream_digest
from tasks.cache.store import Store
from tasks.run.child import SubprocessSpec, compute_in_subprocess
from tasks.run.compute import StepJob, compute_step
from tasks.run.supervise import Devices
from tasks.steps.table import STEPS


@pytest.fixture
def runtime(monkeypatch, tmp_path):
    monkeypatch.setenv("ILA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return RuntimeConfig.from_env()


def order_of(name, runtime, *overrides):
    """The first step of that kind in `smoke`, claimed, and the store it was claimed in."""
    profile = smoke(*overrides)
    pipeline = ila_pipeline(profile, Lock(runtime.home, online=False))
    step = next(s for s in pipeline.data.values() if s.name == name)
    store = Store(runtime, profile.model.name)
    run, mine = store.claim(step, upstream_digest({}), waiting=lambda run: None)
    assert mine
    return StepJob(step, run, {}, runtime, bar=False), store


def smoke(*overrides):
    return load_profile("smoke", overrides)


def spec(profile):
    request = {"profile": profile.model_dump(mode="json"), "until": "search", "ranking": None}
    return SubprocessSpec((sys.executable, "-m", "flows.step_process"), request, Devices(1))


@pytest.mark.slow
def test_the_result_is_the_one_that_this_process_would_have_made(finished, runtime):
    order, store = order_of("prepare", runtime)
    found = compute_in_subprocess(order, store, spec(smoke()))
    elsewhere = RuntimeConfig(
        home=finished.home, tracking_uri=f"sqlite:///{finished.home / 'mlflow.db'}"
    )
    (here,) = open_lookup(elsewhere, "demo").finished(found.key)
    assert found.status == "FINISHED"
    assert found.digest == here.digest


@pytest.mark.slow
def test_a_users_error_arrives_as_one(runtime, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"prompt": "a", "response": "b"}\n')
    other = f"datasets.0.source={empty}"
    order, store = order_of("prepare", runtime, other)
    with pytest.raises(UserError, match="terse: its held_out split is empty"):
        compute_in_subprocess(order, store, spec(smoke(other)))


def test_a_child_computes_no_other_step_than_the_one_that_was_claimed(runtime):
    order, store = order_of("prepare", runtime)
    with pytest.raises(CheckError, match="changed meanwhile; run the same command again"):
        compute_in_subprocess(order, store, spec(smoke("data.max_length=32")))


KILLED = "import os, signal; os.write(1, b'loading'); os.kill(os.getpid(), signal.SIGKILL)"


def test_a_process_that_is_killed_is_named_with_all_that_it_said(runtime):
    order, store = order_of("prepare", runtime)
    killed = replace(spec(smoke()), command=(sys.executable, "-c", KILLED))
    with pytest.raises(CheckError, match=r"ended by SIGKILL \(out of memory\?\); all") as caught:
        compute_in_subprocess(order, store, killed)
    said = Path(str(caught.value).rpartition(" is in ")[2])
    assert (said.stem, said.read_text()) == (order.step.title, "loading")


def test_what_mlflow_did_not_take_is_committed_the_next_time(runtime, monkeypatch):
    order, store = order_of("prepare", runtime)
    computed = []
    monkeypatch.setitem(STEPS, "prepare", computing(computed))
    monkeypatch.setattr(store, "commit", refused)
    with pytest.raises(ConnectionError, match=r"kept in .*uncommitted.*; the same command"):
        compute_step(order, store)
    monkeypatch.undo()
    monkeypatch.setitem(STEPS, "prepare", computing(computed))
    done = compute_step(order, Store(runtime, "demo"))
    assert (done.status, len(computed)) == ("FINISHED", 1)
    assert list((runtime.home / "uncommitted").iterdir()) == []


def computing(computed):
    def compute(step, inputs, out, context):
        computed.append(step.key)
        (out / "prepare.json").write_text("{}")

    return compute


def refused(run, folder):
    raise MlflowException("Connection refused")
