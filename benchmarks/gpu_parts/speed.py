"""Stage 1 and stage 2 in ms per iteration; our LoRA arithmetic beside PEFT's; kernels."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from benchmarks.gpu_parts.bench import Bench, Size, timed
from benchmarks.gpu_parts.models import adapted, micro_batches, random_llama, train_steps
from ila_core.models.layers import layers_of
from ila_core.search.gates import Gates
from ila_core.train.lora_function import fused_lora
from ila_core.train.loss import TokenLoss
from ila_core.train.methods.lora import lora_layers
from ila_core.train.recompute import recomputing_activations

PAPER_MS = {"stage1": 6671, "stage2": 5343}
# Dense bfloat16, from the vendor's data sheets; SXM variants.
PEAK_TFLOPS = {"A100": 312, "H100": 989, "H200": 989}


def stages(bench: Bench, four_bit: bool) -> None:
    """Stage 1 and stage 2 as a search runs them."""
    size = bench.size
    base = "4-bit base" if four_bit else "16-bit base"

    def figures(model: Any, stage: str, seconds: list[float], peak: int | None) -> dict[str, Any]:
        median = statistics.median(seconds)
        return {
            "ms_per_iteration": 1000 * median,
            "ms_range": [round(1000 * min(seconds), 1), round(1000 * max(seconds), 1)],
            "paper_ms": PAPER_MS[stage],
            "tokens_per_second": size.batch * size.length / median,
            "model_flops_utilisation": utilisation(model, size, median, bench),
            "peak_gib": (peak or 0) / 2**30,
        }

    def measure() -> dict[str, Any]:
        model = random_llama(bench, four_bit=four_bit)
        model = adapted(model, [layer.name for layer in layers_of(model)])
        shape = size.batch, size.length, size.micro_batch, size.iterations
        first = figures(model, "stage1", *train_steps(bench, model, *shape))
        bench.note(f"stages, stage 1, {base}", first)
        with Gates(model):
            gates = train_steps(
                bench, model, *shape, make_optimizer=lambda scores: torch.optim.SGD(scores, lr=1.0)
            )
        second = figures(model, "stage2", *gates)
        print(f"stages, stage 1, {base}: {first['ms_per_iteration']:.0f} ms", flush=True)
        return {
            **second,
            "over_stage1": second["ms_per_iteration"] / first["ms_per_iteration"],
            "paper_over_stage1": PAPER_MS["stage2"] / PAPER_MS["stage1"],
        }

    bench.row(f"stages, stage 2, {base}", measure, needs=60)


def utilisation(model: Any, size: Size, seconds: float, bench: Bench) -> float | None:
    """Share of the device's peak that one step's arithmetic takes.

    4 FLOPs per frozen weight and token (forward, and the input's gradient) and causal attention's;
    adapters and recomputation are left out, so it errs on the low side.
    """
    name = torch.cuda.get_device_name(bench.device) if bench.cuda else ""
    peak = next((tflops for kind, tflops in PEAK_TFLOPS.items() if kind in name), None)
    if peak is None:
        return None
    weights = sum(
        layer.base_layer.in_features * layer.base_layer.out_features
        for layer in lora_layers(model).values()
    )
    attention = 6 * size.blocks * size.hidden * size.length  # per token, forward and backward
    tokens = size.batch * size.length
    return float((4 * weights + attention) * tokens / seconds / (peak * 1e12))


def arithmetic(bench: Bench) -> None:
    """Forward and backward of one step of stage 1, five ways on the same model, interleaved."""
    size, device = bench.size, bench.device

    def measure() -> dict[str, Any]:
        base = random_llama(bench, four_bit=False)
        model = adapted(base, [layer.name for layer in layers_of(base)]).train()
        batches = micro_batches(bench, size.batch)
        token_loss = TokenLoss(model)

        def passes(ours: bool, checkpointing: bool) -> None:
            if checkpointing:
                base.gradient_checkpointing_enable({"use_reentrant": False})
            with ExitStack() as blocks:
                if ours:
                    blocks.enter_context(fused_lora(model))
                    blocks.enter_context(recomputing_activations(model))
                for batch in batches:
                    token_loss.backward(batch, size.batch * size.length)
            base.gradient_checkpointing_disable()

        def own_loss() -> None:
            for batch in batches:
                model(**batch).loss.backward()

        ways: dict[str, Callable[[], None]] = {
            "ours": partial(passes, ours=True, checkpointing=False),
            "ours_checkpointing": partial(passes, ours=True, checkpointing=True),
            "peft": partial(passes, ours=False, checkpointing=False),
            "peft_checkpointing": partial(passes, ours=False, checkpointing=True),
            "peft_and_models_loss": own_loss,
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        peaks: dict[str, float | None] = {}
        failed: dict[str, str] = {}
        for turn in range(1 + size.iterations // 2):
            for way, compute in ways.items():
                if way in failed:
                    continue
                model.zero_grad()
                gc.collect()
                try:
                    spent, peak = timed(compute, device)
                except torch.cuda.OutOfMemoryError:
                    failed[way] = "out of memory"
                    continue
                peaks[way] = peak
                if turn:  # the first warms up
                    seconds[way].append(spent)
        found: dict[str, Any] = dict(failed)
        for way in ways:
            if way not in failed:
                found[f"{way}_ms"] = 1000 * statistics.median(seconds[way])
                if way != "ours" and "ours" not in failed:
                    ratios = [a / b for a, b in zip(seconds[way], seconds["ours"], strict=True)]
                    found[f"{way}_over_ours"] = statistics.median(ratios)
                found[f"{way}_gib"] = peaks[way]
        return found

    bench.row("arithmetic", measure, needs=90)


def kernels(bench: Bench) -> None:
    """The device's time in one micro-batch of stage 1, by kernel (on a CPU: by operator)."""
    size, device = bench.size, bench.device

    def measure() -> dict[str, Any]:
        base = random_llama(bench, four_bit=False)
        model = adapted(base, [layer.name for layer in layers_of(base)]).train()
        (batch,) = micro_batches(bench, size.micro_batch)
        token_loss = TokenLoss(model)

        def passes() -> None:
            with fused_lora(model), recomputing_activations(model):
                token_loss.backward(batch, size.micro_batch * size.length)

        passes()
        whole, _ = timed(passes, device)
        kind = torch.profiler.ProfilerActivity
        with torch.profiler.profile(activities=[kind.CUDA if bench.cuda else kind.CPU]) as profiler:
            timed(passes, device)

        def spent(event: Any) -> float:
            return float(event.self_device_time_total if bench.cuda else event.self_cpu_time_total)

        events = sorted(profiler.key_averages(), key=spent, reverse=True)
        busy = sum(map(spent, events)) / 1e3
        top = {e.key[:80]: {"ms": spent(e) / 1e3, "calls": e.count} for e in events[:15]}
        return {"ms": 1000 * whole, "busy_ms": busy, "kernels": top}

    bench.row("kernels", measure, needs=40)
