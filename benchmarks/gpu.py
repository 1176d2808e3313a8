"""Stage 1 and stage 2 at the paper's size on one GPU: ms per iteration, utilisation, peak memory.

    python benchmarks/gpu.py [--quick | --tiny] [--device cuda] [--json]

A Llama of 7B shape with random weights made on the device, bfloat16, and the same with a 4-bit
base; batches of 32 conversations of equal length through `ila_core.train.loop`, as in a real search. The
paper reports 6671 and 5343 ms on an A100 at batch 32; it does not give its lengths. Where there is
no CUDA it says so and ends well.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, TrainerCallback

from ila_core.config import LoraSettings, OptimizerSettings, Schedule
from ila_core.data.prepared import Row
from ila_core.search.gates import Gates
from ila_core.train.loop import Circumstance, train
from ila_core.train.methods.lora import Lora, lora_layers

# hidden, intermediate, blocks, heads, vocabulary; conversations per step and pass; tokens in each
SIZES = {
    "7B": ((4096, 11008, 32, 32, 32000), (32, 4), 512),
    "quick": ((2048, 5504, 16, 16, 32000), (32, 8), 256),
    "tiny": ((64, 128, 2, 4, 128), (4, 2), 16),
}
PAPER_MS = {"stage1": 6671, "stage2": 5343}
# Dense bfloat16, from the vendor's data sheets; SXM variants.
PEAK_TFLOPS = {"A100": 312, "H100": 989, "H200": 989}


class Clock(TrainerCallback):  # type: ignore[misc]
    """Seconds of every step; the loss that was fetched in it has waited for the device."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._last = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self._last)
        self._last = now


def random_model(size: str, device: str, four_bit: bool) -> Any:
    """An adapted Llama whose B is not zero, as after stage 1."""
    (hidden, intermediate, blocks, heads, vocabulary), _, _ = SIZES[size]
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        vocab_size=vocabulary,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    linears = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    if four_bit:
        for name, linear in linears.items():
            if name != "lm_head":
                model.set_submodule(name, quantised(linear, device))
        model.is_loaded_in_4bit = True
    adapted = Lora().attach(model, list(linears), LoraSettings(r=32, alpha=64, dropout=0.0), seed=0)
    for layer in lora_layers(adapted).values():
        nn.init.normal_(layer.lora_B["default"].weight, std=0.01)
    return adapted


def quantised(linear: nn.Linear, device: str) -> nn.Linear:
    """The same layer in NF4."""
    import bitsandbytes

    packed = bitsandbytes.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=False,
        compute_dtype=torch.bfloat16,
        quant_type="nf4",
        device="meta",
    )
    packed.weight = bitsandbytes.nn.Params4bit(linear.weight.detach(), requires_grad=False)
    # A forward in eval mode would turn the weight into a format without a gradient; CPU only.
    packed.support_avx512bf16_for_cpu = False
    return packed.to(device)  # type: ignore[no-any-return]


def measure(size: str, device: str, *, four_bit: bool, iterations: int) -> dict[str, Any]:
    """Both stages of one model; the first two steps of each are not counted."""
    _, (batch, micro_batch), length = SIZES[size]
    model = random_model(size, device, four_bit)
    vocabulary = model.config.vocab_size
    ids = torch.randint(vocabulary, (batch, length)).tolist()
    rows = [Row(row, row) for row in ids]

    def run(**given: Any) -> dict[str, Any]:
        clock = Clock()
        result = train(
            model,
            rows,
            schedule=Schedule(lr=1e-4, steps=iterations + 2),
            optimizer=OptimizerSettings(
                batch_size=batch, weight_decay=0.0, warmup_ratio=0.0, max_grad_norm=0.0
            ),
            seed=0,
            callbacks=[clock],
            circumstance=Circumstance(micro_batch=micro_batch),
            **given,
        )
        seconds = statistics.median(clock.seconds[2:])
        return {
            "ms_per_iteration": 1000 * seconds,
            "ms_range": [1000 * min(clock.seconds[2:]), 1000 * max(clock.seconds[2:])],
            "model_flops_utilisation": utilisation(model, batch * length / seconds, device),
            "peak_memory_gib": (result.peak_memory_bytes or 0) / 2**30,
        }

    result = {"stage1": run()}
    with Gates(model):
        result["stage2"] = run(make_optimizer=lambda scores: torch.optim.SGD(scores, lr=1.0))
    times = [result[stage]["ms_per_iteration"] for stage in ("stage1", "stage2")]
    return {**result, "stage2_over_stage1_time": times[1] / times[0]}


def utilisation(model: Any, tokens_per_s: float, device: str) -> float | None:
    """Share of the peak that the frozen weights' forward and input gradients take.

    4 FLOPs per weight and token; adapters and attention are left out, so it errs on the low side.
    """
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else ""
    peak = next((tflops for kind, tflops in PEAK_TFLOPS.items() if kind in name), None)
    if peak is None:
        return None
    weights = sum(
        layer.base_layer.in_features * layer.base_layer.out_features
        for layer in lora_layers(model).values()
    )
    return 4 * weights * tokens_per_s / (peak * 1e12)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--iterations", type=int, default=10)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a shape of about 0.9B")
    size.add_argument("--tiny", action="store_true", help="a shape that any machine can run")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print("skipped: there is no CUDA device here", file=sys.stderr if args.json else sys.stdout)
        if args.json:
            print(json.dumps({"skipped": "no CUDA device"}))
        return
    chosen = "quick" if args.quick else "tiny" if args.tiny else "7B"
    cuda = args.device.startswith("cuda")
    result: dict[str, Any] = {
        "size": chosen,
        "batch": SIZES[chosen][1][0],
        "micro_batch": SIZES[chosen][1][1],
        "length": SIZES[chosen][2],
        "device": torch.cuda.get_device_name(args.device) if cuda else args.device,
        "torch": torch.__version__,
        "paper_ms": PAPER_MS,
    }
    for name, four_bit in (("bfloat16", False), ("4bit", True)):
        result[name] = measure(chosen, args.device, four_bit=four_bit, iterations=args.iterations)
    if args.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{chosen} on {result['device']}, batch {result['batch']} x {result['length']} tokens")
    for name in ("bfloat16", "4bit"):
        for stage in ("stage1", "stage2"):
            row = result[name][stage]
            mfu = row["model_flops_utilisation"]
            theirs = f" (paper {PAPER_MS[stage]})" if chosen == "7B" else ""
            print(
                f"{name:9} {stage} {row['ms_per_iteration']:8.0f} ms{theirs}  "
                f"utilisation {'unknown' if mfu is None else format(mfu, '.2f')}  "
                f"peak {row['peak_memory_gib']:.1f} GiB"
            )
        print(f"{name:9} stage 2 / stage 1: {result[name]['stage2_over_stage1_time']:.3f}")


if __name__ == "__main__":
    main()
