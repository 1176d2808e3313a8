"""A Llama with random weights, its adapters, random rows, and steps of training on them."""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, TrainerCallback

from benchmarks.gpu_parts.bench import Bench, LeftOut, Size
from ila_core.config import OptimizerSettings, Schedule
from ila_core.config.finetune import LoraMethod
from ila_core.data.batches import collate
from ila_core.data.prepared import Row
from ila_core.train.loop import TrainRuntime, train
from ila_core.train.methods.lora import Lora, lora_layers

LORA = LoraMethod(r=32, alpha=64, dropout=0.0, lr=1e-4, steps=3)


def random_llama(bench: Bench, *, four_bit: bool) -> Any:
    """A Llama with random weights, made on the device.

    Raises:
        LeftOut: a 4-bit model where bitsandbytes is missing.
    """
    size, device = bench.size, bench.device
    if four_bit and find_spec("bitsandbytes") is None:
        raise LeftOut("bitsandbytes is not installed")
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(size.config, dtype=size.dtype)
    if four_bit:
        for name, linear in list(model.named_modules()):
            if isinstance(linear, nn.Linear) and name != "lm_head":
                model.set_submodule(name, quantised(linear, device))
        model.is_loaded_in_4bit = True
    bench.free()
    return model


def quantised(linear: nn.Linear, device: str) -> nn.Linear:
    """The same layer in NF4."""
    import bitsandbytes

    packed = bitsandbytes.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=False,
        compute_dtype=linear.weight.dtype,
        quant_type="nf4",
        device="meta",
    )
    packed.weight = bitsandbytes.nn.Params4bit(linear.weight.detach(), requires_grad=False)
    # A forward in eval mode would turn the weight into a format without a gradient; CPU only.
    packed.support_avx512bf16_for_cpu = False
    return packed.to(device)  # type: ignore[no-any-return]


def adapted(model: Any, layers: list[str]) -> Any:
    """`model` with LoRA on `layers`, whose B is not zero, as after stage 1."""
    found = Lora().attach(model, layers, LORA, seed=0)
    for layer in lora_layers(found).values():
        nn.init.normal_(layer.lora_B["default"].weight, std=0.01)
    return found


def random_rows(size: Size, count: int, length: int) -> list[Row]:
    ids = torch.randint(size.vocabulary, (count, length), generator=torch.Generator()).tolist()
    return [Row(row, row) for row in ids]


def micro_batches(bench: Bench, conversations: int) -> list[dict[str, torch.Tensor]]:
    """As many random conversations on the device, in micro-batches."""
    size = bench.size
    rows = random_rows(size, conversations, size.length)
    parts = [rows[i : i + size.micro_batch] for i in range(0, len(rows), size.micro_batch)]
    return [
        {name: tensor.to(bench.device) for name, tensor in collate([[r] for r in part]).items()}
        for part in parts
    ]


class StepTimes(TrainerCallback):  # type: ignore[misc]
    """Seconds of every step; the loss that is fetched in it waits for the device."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._last = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now


def train_steps(
    bench: Bench, model: Any, batch: int, length: int, micro_batch: int, steps: int, **given: Any
) -> tuple[list[float], int | None]:
    """Seconds of each of `steps` steps after two that warm up, and peak bytes of tensors."""
    times = StepTimes()
    result = train(
        model,
        random_rows(bench.size, batch, length),
        schedule=Schedule(lr=1e-4, steps=steps + 2),
        optimizer=OptimizerSettings(
            batch_size=batch, weight_decay=0.0, warmup_ratio=0.0, max_grad_norm=0.0
        ),
        seed=0,
        callbacks=[times],
        runtime=TrainRuntime(micro_batch=micro_batch),
        **given,
    )
    return times.seconds[2:], result.peak_memory_bytes
