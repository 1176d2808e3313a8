"""The demo's search by `ila_core` alone: whole, and killed and resumed.

python -m benchmarks.gpu_parts.search FOLDER DEVICE STEPS   # the child that is killed
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.gpu_parts.bench import Bench
from ila_core.config import Schedule, Stage1Settings, Stage2Settings
from ila_core.data.prepared import Row
from ila_core.models.layers import layers_of
from ila_core.search.gates import learn_gates
from ila_core.search.stage1 import learn_adapter
from ila_core.train.checkpoints import CheckpointFolder
from ila_core.train.loop import TrainRuntime

DEMO = Path(__file__).parents[2] / "ila_core" / "demo"
BASE, DATA = DEMO / "base", DEMO / "data" / "terse.jsonl"


def search_once(
    folder: Path, device: str, steps: int, report: Callable[[str, int], None]
) -> dict[str, float]:
    """Stage 1 and stage 2 on the demo's model; goes on from what lies in `folder`.

    Args:
        folder: of the checkpoints and the adapter.
        device: where it runs.
        steps: of stage 1.
        report: called with the stage and the step's number after every step.

    Returns:
        The score of every layer.
    """
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    rows = []
    for line in DATA.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        asked = f"<|user|>{row['instruction']}\n{row['input']}<|assistant|>"
        prompt = tokenizer(asked, add_special_tokens=False).input_ids
        answer = tokenizer(f"{row['output']}</s>", add_special_tokens=False).input_ids
        rows.append(Row(prompt + answer, [-100] * len(prompt) + answer))
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).to(device)
    layers = [layer.name for layer in layers_of(model)]
    optimizer = {
        "batch_size": 16,
        "weight_decay": 0.1,
        "schedule": "cosine",
        "warmup_ratio": 0.01,
        "max_grad_norm": 1.0,
    }
    stability = {"epsilon": 1e-9, "window": 2, "patience": 2, "floor": 0.5, "ceiling": 1.0}
    lora = {"r": 8, "alpha": 16, "dropout": 0.0}

    def here(stage: str) -> TrainRuntime:
        return TrainRuntime(
            checkpoints=CheckpointFolder(folder / stage, seconds=0),
            on_metrics=lambda step, _: report(stage, step),
        )

    adapter = folder / "adapter"
    learn_adapter(
        model,
        layers,
        rows,
        Stage1Settings.model_validate(
            {"lora": lora, "optimizer": optimizer, "stability": stability}
        ),
        Schedule(lr=2e-3, steps=steps),
        seed=0,
        adapter_folder=adapter,
        runtime=here("stage1"),
    )
    gates = Stage2Settings(
        rows="train",
        batches=16,
        batch_size=16,
        initial_score=0.0,
        optimizer="sgd",
        lr=5.0,
        weight_decay=0.0,
        schedule="constant",
        max_grad_norm=0.0,
    )
    return learn_gates(model, adapter, rows, gates, seed=0, runtime=here("stage2")).scores


def search(bench: Bench) -> None:
    """The same search whole, killed and resumed, and on a CPU."""
    steps = bench.size.search_steps

    def quiet(stage: str, step: int) -> None:
        pass

    def start(folder: Path) -> subprocess.Popen[str]:
        flags = ["-S"] if sys.flags.no_site else []  # it must find no more than its parent
        options = [str(folder), bench.device, str(steps)]
        command = [sys.executable, *flags, "-m", "benchmarks.gpu_parts.search", *options]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def measure() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            whole = search_once(root / "whole", bench.device, steps, quiet)
            killed_at = f"stage1 {steps // 2}"
            with start(root / "killed") as process:
                assert process.stdout is not None
                for line in process.stdout:
                    if line.strip() == killed_at:
                        process.send_signal(signal.SIGKILL)
                        break
            if process.returncode != -signal.SIGKILL:
                raise RuntimeError(f"ended with {process.returncode} before it was killed")
            with start(root / "killed") as process:
                printed, _ = process.communicate()
            if process.returncode:
                raise RuntimeError(f"the resumed search ended with {process.returncode}")
            resumed = json.loads(printed.splitlines()[-1])
            first = next(line for line in printed.splitlines() if line.startswith("stage1"))
            found = {"killed_at": killed_at, "resumed_at": first, **compared(whole, resumed, "")}
            if bench.cuda:
                cpu = search_once(root / "cpu", "cpu", steps, quiet)
                found |= compared(whole, cpu, "cpu_")
        return found

    bench.row("search", measure, needs=60)


def compared(one: dict[str, float], other: dict[str, float], prefix: str) -> dict[str, Any]:
    """How far the scores of two searches are apart, and whether they freeze the same quarter."""

    def frozen(scores: dict[str, float]) -> set[str]:
        return set(sorted(scores, key=scores.__getitem__)[: len(scores) // 4])

    spread = max(one.values()) - min(one.values())
    return {
        f"{prefix}largest_difference_over_range": max(abs(one[n] - other[n]) for n in one) / spread,
        f"{prefix}frozen_in_both": len(frozen(one) & frozen(other)),
        "frozen": len(frozen(one)),
    }


def main(folder: str, device: str, steps: str) -> None:
    def report(stage: str, step: int) -> None:
        print(stage, step, flush=True)

    print(json.dumps(search_once(Path(folder), device, int(steps), report)))


if __name__ == "__main__":
    main(*sys.argv[1:])
