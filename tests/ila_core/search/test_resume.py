"""Both stages, killed again and again: what comes out is what an undisturbed run gives."""

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from ila_core.config import LoraSettings, Schedule, Stage1Settings, Stage2Settings
from ila_core.errors import CheckError
from ila_core.locks import LockError
from ila_core.search.gates import learn_gates
from ila_core.search.stage1 import learn_adapter
from ila_core.train.checkpoints import CheckpointFolder
from ila_core.train.loop import TrainRuntime, train
from tests.helpers import tiny

pytestmark = pytest.mark.never_rerun

STAGE1 = Stage1Settings(
    lora=LoraSettings(r=4, alpha=8, dropout=0.1),  # dropout draws from the generators
    optimizer=tiny.OPTIMIZER.model_copy(update={"schedule": "cosine", "warmup_ratio": 0.1}),
    stability=tiny.STABILITY.model_copy(update={"epsilon": 1e-9}),
    milestones=(0.02, 0.04, 0.5),  # the first two fall on one step
)
STAGE2 = Stage2Settings(
    rows="train",
    batches=25,
    batch_size=8,
    initial_score=0.0,
    optimizer="adam",
    lr=0.1,
    weight_decay=0.0,
    schedule="linear",
    max_grad_norm=1.0,
)
KILLED_AFTER = (1, 2, 3, 1, 2, 3, 1, 2, 3, 1)
"""Reported steps before each kill of a stage: 19 at most of its 25."""


def both_stages(folder: Path, steps: Connection | None, seconds: float) -> None:
    """Like a step of the pipeline: what is finished is not done again."""
    torch.set_num_threads(1)
    first, second = folder / "stage1.json", folder / "stage2.json"

    def here(stage: str) -> TrainRuntime:
        def report(step: int, _: dict[str, float]) -> None:
            if steps:
                steps.send((stage, step))
                steps.recv()  # goes on when it is told to, however fast the machine

        checkpoints = CheckpointFolder(folder / "checkpoints" / stage, seconds)
        return TrainRuntime(micro_batch=3, on_metrics=report, checkpoints=checkpoints)

    if not first.exists():
        result = learn_adapter(
            tiny.model(),
            tiny.layers(tiny.model()),
            tiny.rows(40),
            STAGE1,
            Schedule(lr=1e-2, steps=25),
            seed=3,
            adapter_folder=folder / "adapter",
            runtime=here("stage1"),
        )
        first.write_text(result.model_dump_json(exclude={"seconds", "peak_memory_bytes"}))
    gates = learn_gates(
        tiny.model(),
        folder / "adapter",
        tiny.rows(40),
        STAGE2,
        seed=3,
        runtime=here("stage2"),
    )
    second.write_text(gates.model_dump_json(exclude={"seconds", "peak_memory_bytes"}))


def results(folder: Path) -> dict[str, str]:
    parts = ("stage1.json", "stage2.json", "adapter/*", "milestones/*/*")
    files = [file for part in parts for file in folder.glob(part)]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["ila_core.search.gates", "ila_core.search.stage1", "peft"]
    )  # once for all
    return context


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    both_stages(folder, None, seconds=3600.0)
    return folder


@contextmanager
def killed(processes, folder):
    """Both stages in a process that is killed when the block ends; its end of a pipe."""
    here, there = processes.Pipe()
    child = processes.Process(target=both_stages, args=(folder, there, 0.0))
    child.start()
    there.close()
    yield here
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert child.exitcode == -signal.SIGKILL


@pytest.mark.slow
def test_twenty_kills_over_both_stages_change_nothing(processes, undisturbed, tmp_path):
    rng = random.Random(0)
    for stage in ("stage1", "stage2"):
        for count in KILLED_AFTER:
            with killed(processes, tmp_path) as child:
                while count:
                    count -= child.recv()[0] == stage
                    child.send("go on")
                # A step is reported before its checkpoint is written: many kills come in mid-write.
                time.sleep(rng.random() * 0.03)
        assert (tmp_path / "stage1.json").exists() == (stage == "stage2")
    both_stages(tmp_path, None, seconds=0.0)
    assert results(tmp_path) == results(undisturbed)
    kept = [p.name for p in (tmp_path / "checkpoints").glob("*/checkpoint-*")]
    assert 2 <= len(kept) <= 4, kept


@pytest.mark.slow
def test_milestones_survive_a_kill(processes, undisturbed, tmp_path):
    with killed(processes, tmp_path) as child:
        while child.recv() != ("stage1", 17):  # the last milestone is step 12 of 25
            child.send("go on")
    assert not (tmp_path / "stage1.json").exists()
    kept = sorted((tmp_path / "checkpoints" / "stage1" / "milestones").glob("*/*"))
    assert {f.parent.name for f in kept} == {"0.02", "0.04", "0.5"}
    written = [f.stat().st_mtime_ns for f in kept]
    both_stages(tmp_path, None, seconds=0.0)
    assert [f.stat().st_mtime_ns for f in kept] == written, "not trained again"
    found = results(tmp_path)
    assert found == results(undisturbed)
    weights = [f"milestones/{m:g}/adapter_model.safetensors" for m in STAGE1.milestones]
    first, second, half = (found[name] for name in weights)
    assert first == second != half != found["adapter/adapter_model.safetensors"]


def some_steps(folder: Path, **changes: object) -> list[float]:
    """Six steps with a checkpoint after each but the last."""
    settings = {"schedule": tiny.SCHEDULE, "optimizer": tiny.OPTIMIZER, "seed": 0} | changes
    here = TrainRuntime(checkpoints=CheckpointFolder(folder, 0.0))
    return train(tiny.model(), tiny.rows(), runtime=here, **settings).losses


def test_a_truncated_checkpoint_is_left_out(tmp_path, caplog):
    losses = some_steps(tmp_path)
    assert sorted(p.name for p in tmp_path.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-5"]
    weights = tmp_path / "checkpoint-5" / "trained.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert some_steps(tmp_path) == losses
    assert "checkpoint-5 is incomplete" in caplog.text
    shutil.rmtree(tmp_path / "checkpoint-4")
    (tmp_path / "checkpoint-5" / "complete.json").unlink()
    assert some_steps(tmp_path) == losses  # from the start


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    some_steps(tmp_path)
    for changes in ({"seed": 1}, {"schedule": Schedule(lr=2e-2, steps=6)}):
        with pytest.raises(
            CheckError, match=r"checkpoint-5 was written by another training.*delete"
        ):
            some_steps(tmp_path, **changes)


def test_two_at_once_never_share_checkpoints(tmp_path):
    folder = CheckpointFolder(tmp_path, 0.0)
    with (
        folder.held("a"),
        pytest.raises(LockError, match=r"checkpoints of one training.* locked by process"),
    ):
        some_steps(tmp_path)


def test_checkpoints_are_private_and_hold_only_what_trains(tmp_path):
    some_steps(tmp_path / "own")
    assert (tmp_path / "own").stat().st_mode & 0o077 == 0
    checkpoint = tmp_path / "own" / "checkpoint-5"
    assert {p.name for p in checkpoint.iterdir()} == {
        "trained.safetensors",
        "callbacks.json",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "trainer_state.json",
        "complete.json",
    }
    assert len(json.loads((checkpoint / "callbacks.json").read_bytes())[0]["losses"]) == 5


def test_a_nan_names_step_rows_and_the_last_good_checkpoint(tmp_path):
    def poison(step: int, metrics: dict[str, float]) -> None:
        if step == 4:
            with torch.no_grad():
                model.lm_head.weight[3, 3] = float("nan")

    model = tiny.model()
    here = TrainRuntime(on_metrics=poison, checkpoints=CheckpointFolder(tmp_path, 0.0))
    with pytest.raises(CheckError, match=r"step 5 of 6, on rows \d+, .*checkpoint-4$"):
        train(
            model,
            tiny.rows(),
            schedule=tiny.SCHEDULE,
            optimizer=tiny.OPTIMIZER,
            seed=0,
            runtime=here,
        )
