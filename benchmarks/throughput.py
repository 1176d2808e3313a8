"""Useful tokens per second of stage 1 over transformers' stock `Trainer`, on real data.

    ILA_REAL_DATA=... python benchmarks/throughput.py [--rounds 20] [--threads 1] [--quick] [--json]

The profile stories3m-real: same model, LoRA, batch and clipping. Stock: PEFT's layers, the model's
own loss, padded to the longest of a pass, in random order (`padded`) or in its order by length
(`grouped`). A pass is the profile's whole batch, or as many conversations as ours has in one
(`padded_8`, `grouped_8`). Tokens are those of the conversations, never padding; time is that of the
whole training loop, data included. One epoch over the same few conversations, drawn anew in every
round, is trained by each in turn: over a whole set, the first steps by length would see the longest
only. Ratios are medians over rounds, and the headline is the worse of LIMA and Alpaca-GPT4.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from record import Tolerance, recorded
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from ila_core.config import Profile, Schedule
from ila_core.config.load import load_model_config, load_profile
from ila_core.data import Dataset
from ila_core.data.batches import Row, plan_batches
from ila_core.data.chat_template import Renderer
from ila_core.data.loss_mask import IGNORED
from ila_core.data.tokenize import prepare
from ila_core.models.loading import load_base, load_tokenizer
from ila_core.train.loop import TrainRuntime, train
from ila_core.train.methods.lora import Lora

TOLERANCE: Tolerance = {"*tokens_per_s.*": (0.5, 0.0), "*": (0.1, 0.0)}
DATASETS = ("lima", "alpaca_gpt4")
STEPS, MICRO_BATCH = 3, 8


class Clock(TrainerCallback):  # type: ignore[misc]
    seconds = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._started = time.perf_counter()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.seconds = time.perf_counter() - self._started


def ours(model: Any, rows: Sequence[Row], profile: Profile, seed: int) -> float:
    """Tokens per second."""
    clock, optimizer = Clock(), profile.search.stage1.optimizer
    train(
        model,
        rows,
        schedule=Schedule(lr=1e-3, steps=STEPS),
        optimizer=optimizer,
        seed=seed,
        callbacks=[clock],
        runtime=TrainRuntime(micro_batch=MICRO_BATCH),
    )
    plan = plan_batches(len(rows), optimizer.batch_size, STEPS, seed)
    return sum(len(rows[i].input_ids) for step in plan for i in step) / clock.seconds


def stock(
    strategy: str,
    in_one_pass: int | None,
    model: Any,
    rows: Sequence[Row],
    profile: Profile,
    seed: int,
) -> float:
    """Tokens per second, counted by the collator; `None` passes the whole batch at once."""
    clock, optimizer = Clock(), profile.search.stage1.optimizer
    size = in_one_pass or optimizer.batch_size
    tokens = 0

    def collate(features: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        nonlocal tokens
        ids = [torch.tensor(feature["input_ids"]) for feature in features]
        labels = [torch.tensor(feature["labels"]) for feature in features]
        tokens += sum(map(len, ids))
        return {
            "input_ids": pad_sequence(ids, batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
            "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
        }

    with tempfile.TemporaryDirectory() as unused:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=unused,
                max_steps=STEPS,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=optimizer.batch_size // size,
                train_sampling_strategy=strategy,
                learning_rate=1e-3,
                lr_scheduler_type="cosine",
                adam_beta1=optimizer.beta1,
                adam_beta2=optimizer.beta2,
                weight_decay=optimizer.weight_decay,
                max_grad_norm=optimizer.max_grad_norm,
                seed=seed,
                use_cpu=True,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=[{"input_ids": r.input_ids, "labels": r.labels} for r in rows],
            data_collator=collate,
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return tokens / clock.seconds


VARIANTS: dict[str, Callable[..., float]] = {
    "ours": ours,
    "padded": partial(stock, "random", None),
    "grouped": partial(stock, "group_by_length", None),
    f"padded_{MICRO_BATCH}": partial(stock, "random", MICRO_BATCH),
    f"grouped_{MICRO_BATCH}": partial(stock, "group_by_length", MICRO_BATCH),
}


def measure(rounds: int, deadline: float) -> dict[str, Any]:
    profile, config = load_profile("stories3m-real"), load_model_config("stories3m")
    tokenizer = load_tokenizer(config)
    data = {
        dataset.name: prepare(
            Dataset(dataset, None),
            Renderer(tokenizer, config.template),
            profile.data,
            dataset=dataset.name,
        ).splits["train"]
        for dataset in profile.datasets
        if dataset.name in DATASETS
    }
    models = {}
    for name in VARIANTS:
        base = load_base(config, "cpu")
        linears = [n for n, module in base.named_modules() if isinstance(module, nn.Linear)]
        models[name] = Lora().attach(base, linears, profile.search.stage1.lora, seed=0)
        VARIANTS[name](models[name], data[DATASETS[0]], profile, 0)  # not counted: it warms up
    speed: dict[str, dict[str, list[float]]] = {d: {v: [] for v in VARIANTS} for d in data}
    batch_size, done = profile.search.stage1.optimizer.batch_size, 0
    while done < rounds and time.monotonic() < deadline:
        done += 1
        for dataset, rows in data.items():
            drawn = random.Random(done).sample(rows, STEPS * batch_size)
            for name, run in VARIANTS.items():
                speed[dataset][name].append(run(models[name], drawn, profile, done))
    table = {
        dataset: {
            "tokens_per_s": {name: statistics.median(values) for name, values in by_name.items()},
            **{
                f"over_{name}": spread(by_name["ours"], by_name[name])
                for name in VARIANTS
                if name != "ours"
            },
        }
        for dataset, by_name in speed.items()
    }
    return {
        **{
            f"tokens_per_s_over_{name}": min(
                row[f"over_{name}"]["median"] for row in table.values()
            )
            for name in VARIANTS
            if name != "ours"
        },
        "rounds": done,
        "datasets": table,
    }


def spread(above: list[float], below: list[float]) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return {
        "median": statistics.median(ratios),
        "quartiles": statistics.quantiles(ratios, n=4)[::2] if len(ratios) > 1 else ratios * 2,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="8 rounds, or what 6 minutes allow")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not Path(os.environ.get("ILA_REAL_DATA", "")).joinpath("models", "stories3M").is_dir():
        sys.exit(
            "the real data are not here: set ILA_REAL_DATA to the folder with models/stories3M"
        )
    torch.set_num_threads(args.threads)
    deadline = time.monotonic() + (360 if args.quick else 24 * 3600)
    result = measure(8 if args.quick else args.rounds, deadline)
    if args.json:
        print(json.dumps(recorded(result, TOLERANCE), indent=1))
        return
    for dataset, row in result["datasets"].items():
        print(dataset)
        for name, value in row["tokens_per_s"].items():
            print(f"  {name:10}{value:8.0f} tokens/s", end="")
            if name != "ours":
                over = row[f"over_{name}"]
                low, high = over["quartiles"]
                print(f"   ours over it {over['median']:.3f} ({low:.3f}-{high:.3f})", end="")
            print()
    for name in (name for name in VARIANTS if name != "ours"):
        print(f"tokens_per_s_over_{name}: {result[f'tokens_per_s_over_{name}']:.3f}")


if __name__ == "__main__":
    main()
