"""Peak memory of training 30 % of the layers over that of all of them, LoRA and QLoRA.

    python benchmarks/memory.py [--selections 5] [--quick] [--json]

The Llama of `gate_cost.py` (random weights, float32, r 32), 2 x 1024 tokens in one pass, LoRA
dropout 0.1, no checkpointing, three steps of `ila_core.train.loop.train` with AdamW. 30 % is the
median of seeded random selections. QLoRA: all linear layers but `lm_head` in NF4, double
quantisation. Every arm is a process of its own; arms take turns.

How the peak is read. *allocated* (the keys): torch's profiler reports every allocation and release
of its CPU allocator from before the model is made until training ends, temporaries within
operations included; the peak is the largest running sum in training. On a GPU this is
`torch.cuda.max_memory_allocated`. *resident*: the process's VmHWM in training less its VmRSS after
imports and the training of a tiny model (libraries and threads, which no arm changes), with glibc
told to hand freed memory back at once; else its peak is that of the allocator's habits.

Where the bytes are: at the operation of step 2 after which most is alive, in step 3, every living
storage by what made it; *kept* is what autograd saved. Less than *allocated* by what lives within
operations.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gate_cost import SHAPE
from living import Watch
from record import Tolerance, recorded
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments
from transformers.utils.logging import disable_progress_bar

from ila_core.config import LoraSettings, ModelConfig, OptimizerSettings, Schedule
from ila_core.models.loading import load_base
from ila_core.train.loop import TrainRuntime, train
from ila_core.train.memory import measured
from ila_core.train.methods.lora import Lora

ROWS, LENGTH, STEPS, SHARE = 2, 1024, 3, 0.3
SETTINGS = LoraSettings(r=32, alpha=64, dropout=0.1)
TOLERANCE: Tolerance = {
    "*step_seconds": (0.5, 0.0),
    "*resident*": (0.1, 0.0),
    "*libraries_mib": (0.1, 0.0),
    "account_mib.*": (0.02, 1.0),
    "*": (0.02, 0.0),
}
GOALS = {"lora30_over_lora100": 0.70, "qlora30_over_qlora100": 0.60}
CPU = torch.device("cpu")
# Freed memory goes back to the system, and what is mapped is what is alive.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_TOP_PAD_": "0"}
MIB = 2**20


@dataclass(frozen=True)
class Row:
    input_ids: list[int]
    labels: list[int]


def rows(length: int = LENGTH) -> list[Row]:
    rng = random.Random(0)
    drawn = [[rng.randrange(int(SHAPE["vocab_size"])) for _ in range(length)] for _ in range(ROWS)]
    return [Row(ids, ids) for ids in drawn]


def layers(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


def selection(names: list[str], seed: int | None) -> list[str]:
    """30 % of the layers, in their order; all where there is no seed."""
    if seed is None:
        return names
    chosen = set(random.Random(seed).sample(names, round(SHARE * len(names))))
    return [name for name in names if name in chosen]


def base(four_bit_folder: str | None) -> Any:
    torch.manual_seed(0)
    if four_bit_folder is None:
        return LlamaForCausalLM(LlamaConfig(**SHAPE))
    return _four_bit(four_bit_folder)


def _four_bit(folder: str) -> Any:
    disable_progress_bar()
    architecture = {"model_type": "llama", **SHAPE}
    config = ModelConfig(
        name="random", source=folder, architecture=architecture, dtype="float32", lm_head="adapt"
    )
    model = load_base(config, "cpu", four_bit=True)
    # What lies in the mapping of a file is allocated like the rest.
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.clone()
    return model


def ours(model: Any, names: list[str], length: int, callbacks: list[Any]) -> None:
    train(
        Lora().attach(model, names, SETTINGS, seed=0),
        rows(length),
        schedule=Schedule(lr=1e-4, steps=STEPS),
        optimizer=OptimizerSettings(
            batch_size=ROWS, weight_decay=0.0, warmup_ratio=0.0, max_grad_norm=1.0
        ),
        seed=0,
        callbacks=callbacks,
        runtime=TrainRuntime(micro_batch=ROWS),
    )


def stock(model: Any, names: list[str], length: int, callbacks: list[Any]) -> None:
    """PEFT's modules, transformers' Trainer, the model's own loss."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=SETTINGS.r,
        lora_alpha=SETTINGS.alpha,
        lora_dropout=SETTINGS.dropout,
        target_modules=names,
        task_type="CAUSAL_LM",
    )
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            model=get_peft_model(model, config),
            args=TrainingArguments(
                output_dir=folder,
                max_steps=STEPS,
                per_device_train_batch_size=ROWS,
                learning_rate=1e-4,
                use_cpu=True,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=[{"input_ids": r.input_ids, "labels": r.labels} for r in rows(length)],
            data_collator=lambda batch: {k: torch.tensor([x[k] for x in batch]) for k in batch[0]},
            callbacks=callbacks,
        ).train()


ARMS: dict[str, Callable[[Any, list[str], int, list[Any]], None]] = {"ours": ours, "stock": stock}


class Steps(TrainerCallback):
    """Seconds of every step, and a look at what trains before each."""

    def __init__(self, look: Callable[[Any, Any, int], None] | None = None) -> None:
        self.seconds: list[float] = []
        self._look = look

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if self._look is not None:
            self._look(given["model"], given["optimizer"], state.global_step + 1)
        self._started = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self._started)


def resident(arm: str, folder: str | None, seed: int | None) -> dict[str, Any]:
    """MiB of the process above what it has before the model, and seconds of a step."""
    torch.manual_seed(0)
    tiny = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    small = LlamaForCausalLM(LlamaConfig(**{**SHAPE, **tiny}))
    ARMS[arm](small, layers(small), 64, [])
    del small
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _status("VmRSS")
    model, steps = base(folder), Steps()
    names = selection(layers(model), seed)
    gc.collect()
    with measured(CPU) as cost:
        ARMS[arm](model, names, LENGTH, [steps])
    assert cost.peak_memory_bytes is not None
    # `train` resets the peak where it starts, after the adapter is there: nothing is lost by it.
    return {
        "resident_mib": (cost.peak_memory_bytes - before) / MIB,
        "libraries_mib": before / MIB,
        "step_seconds": min(steps.seconds[1:]),
    }


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def allocated(arm: str, folder: str | None, seed: int | None) -> dict[str, Any]:
    """MiB that torch's CPU allocator has handed out, at most."""
    began: list[int] = []
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        model = base(folder)
        names = selection(layers(model), seed)
        gc.collect()
        began.append(time.time_ns())
        ARMS[arm](model, names, LENGTH, [])
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = start = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        if event.start_ns() < began[0]:  # reading a 4-bit model makes float tensors on the way
            start = now
        else:
            most = max(most, now)
    return {"allocated_mib": most / MIB, "base_mib": start / MIB}


def account(arm: str, folder: str | None, seed: int | None) -> dict[str, Any]:
    """MiB of all storages by what made them, where most is alive."""
    model, watch = base(folder), Watch(step=STEPS, rank=SETTINGS.r)
    names = selection(layers(model), seed)
    with watch.watching():
        ARMS[arm](model, names, LENGTH, [Steps(watch.look)])
    return {"account_mib": watch.mib}


INSTRUMENTS = {"allocated": allocated, "resident": resident, "account": account}


def child(instrument: str, arm: str, folder: str | None, seed: int | None) -> dict[str, Any]:
    """One arm under one instrument, in a process of its own."""
    code = f"import json, memory; print(json.dumps(memory.{instrument}(*{(arm, folder, seed)!r})))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **(MALLOC if instrument == "resident" else {})},
        cwd=Path(__file__).parent,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(selections: int, instruments: tuple[str, ...]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        base(None).save_pretrained(folder)
        bases = {"lora": None, "qlora": folder}
        arms: dict[str, dict[str, Any]] = {}
        seeds = [*range(selections), None]
        for instrument in instruments:
            for seed in seeds:
                for kind, weights in bases.items():
                    for arm in ARMS if seed in (0, None) else ("ours",):
                        name = f"{arm} {kind} {100 if seed is None else 30} %"
                        print(f"{instrument}: {name}, selection {seed}", file=sys.stderr)
                        for key, value in child(instrument, arm, weights, seed).items():
                            arms.setdefault(name, {}).setdefault(key, []).append(value)
        table = {name: {k: statistics.median(v) for k, v in x.items()} for name, x in arms.items()}
        accounts = {
            f"ours {kind} {share} %": child("account", "ours", weights, seed)["account_mib"]
            for kind, weights in bases.items()
            for share, seed in ((30, 0), (100, None))
        }
    over = {
        f"{kind}30_over_{kind}100{ending}": table[f"{arm} {kind} 30 %"][key]
        / table[f"{arm} {kind} 100 %"][key]
        for arm, of in (("ours", ""), ("stock", "_stock"))
        for kind in bases
        for key, ending in (("allocated_mib", of), ("resident_mib", f"{of}_resident"))
        if key.removesuffix("_mib") in instruments
    }
    return {
        **over,
        "goals": GOALS,
        "selections": selections,
        "arms": table,
        "by_selection": {name: x["allocated_mib"] for name, x in arms.items()},
        "account_mib": accounts,
    }


def show(result: dict[str, Any]) -> None:
    columns = list(next(iter(result["arms"].values())))
    print(f"{'':20}" + "".join(f"{column:>15}" for column in columns))
    for name, row in result["arms"].items():
        print(f"{name:20}" + "".join(f"{row[column]:15.1f}" for column in columns))
    for key, goal in GOALS.items():
        print(f"goal {goal}:", {k: round(v, 3) for k, v in result.items() if k.startswith(key)})
    for name, kinds in result["account_mib"].items():
        print(f"\n{name}: {sum(kinds.values()):.1f} MiB where most is alive")
        for kind, mib in kinds.items():
            if mib >= 0.05:
                print(f"  {mib:7.1f}  {kind}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--selections", type=int, default=5)
    parser.add_argument(
        "--quick", action="store_true", help="one selection, and no resident memory"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.quick:
        result = measure(1, ("allocated",))
    else:
        result = measure(args.selections, ("allocated", "resident"))
    if args.json:
        print(json.dumps(recorded(result, TOLERANCE), indent=1))
    else:
        show(result)


if __name__ == "__main__":
    main()
