"""What only a GPU can tell, the most important first, in at most eight minutes.

    PYTHONPATH=. python benchmarks/gpu.py --out gpu.json             # a 7B shape; needs CUDA
    PYTHONPATH=. python benchmarks/gpu.py --rehearse --out cpu.json  # tiny, on a CPU

    stages        ms per iteration of stage 1 and stage 2 at batch 32, beside the paper's 6671 and
                  5343 (an A100; lengths not given), model FLOPs utilisation, peak memory
    arithmetic    one step of stage 1 by our LoRA arithmetic and by PEFT's own, each with and
                  without activation checkpointing, interleaved
    table7        Table 7's four memories at 2 x 1,024 tokens, beside the forecast; PEFT's own too
    search        the demo's search by `ila_core` alone: whole, and killed and resumed

Runs where there is no more than torch, transformers, PEFT, accelerate, pydantic and `ila_core`;
4-bit rows need bitsandbytes and are left out by name without it. Each row is written to `--out` as
soon as it is measured. A row for which the time (`--seconds`) does not last is left out by name; a
row that fails is written with its error, the others go on, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, TrainerCallback

from ila_core.batches import collate
from ila_core.checkpoints import CheckpointFolder
from ila_core.config import (
    ModelConfig,
    OptimizerSettings,
    Schedule,
    Stage1Settings,
    Stage2Settings,
)
from ila_core.config.finetuning import LoraMethod
from ila_core.data.prepared import Row
from ila_core.forecast import Forecast
from ila_core.fused import fused_lora
from ila_core.gates import Gates, learn_gates
from ila_core.kept import keeping_less
from ila_core.layers import layers_of
from ila_core.loss import TokenLoss
from ila_core.methods.lora import Lora, lora_layers
from ila_core.stage1 import learn_adapter
from ila_core.train import Circumstance, train

ROOT = Path(__file__).parent.parent
PAPER_MS = {"stage1": 6671, "stage2": 5343}
PAPER_MIB = {"lora 100%": 32988, "lora 30%": 25614, "qlora 100%": 26032, "qlora 30%": 18142}
# Dense bfloat16, from the vendor's data sheets; SXM variants.
PEAK_TFLOPS = {"A100": 312, "H100": 989, "H200": 989}
LORA = LoraMethod(r=32, alpha=64, dropout=0.0, lr=1e-4, steps=3)


@dataclass(frozen=True)
class Size:
    """A Llama, and how much of it is measured."""

    hidden: int
    intermediate: int
    blocks: int
    heads: int
    vocabulary: int
    batch: int
    """Conversations per optimizer step."""
    micro_batch: int
    """Conversations per forward pass."""
    length: int
    """Tokens per conversation."""
    table7: tuple[int, int]
    """Conversations and tokens of each for the memories."""
    iterations: int
    search_steps: int
    dtype: torch.dtype

    @property
    def config(self) -> LlamaConfig:
        return LlamaConfig(
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.blocks,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            vocab_size=self.vocabulary,
            max_position_embeddings=4096,
            tie_word_embeddings=False,
        )


SIZES = {
    "7B": Size(
        4096, 11008, 32, 32, 32000, 32, 8, 512, (2, 1024), 8, search_steps=40, dtype=torch.bfloat16
    ),
    "tiny": Size(64, 128, 4, 4, 128, 4, 2, 16, (2, 32), 2, search_steps=8, dtype=torch.float32),
}


class LeftOut(Exception):
    """A row that cannot be measured here, and why."""


class Bench:
    """Measures rows by name, writes each as it is done, and knows how much time is left."""

    def __init__(self, size: Size, device: str, seconds: float, out: Path | None) -> None:
        self.size, self.device, self.out = size, device, out
        self.cuda = device.startswith("cuda")
        self._deadline = time.monotonic() + seconds
        self.failed: list[str] = []
        self.results: dict[str, Any] = {}

    def note(self, name: str, value: Any) -> None:
        self.results[name] = value
        if self.out is not None:
            partial = self.out.with_suffix(".partial")
            partial.write_text(json.dumps(self.results, indent=1) + "\n", encoding="ascii")
            partial.rename(self.out)

    def row(self, name: str, measure: Callable[[], dict[str, Any]], needs: float = 0.0) -> None:
        """Measure one row and write it down.

        Args:
            name: of the row.
            measure: returns the row's figures, or raises `LeftOut`.
            needs: seconds on the slowest GPU that it is meant for; left out where fewer are left.
        """
        started = time.monotonic()
        try:
            if self._deadline - started < needs:
                raise LeftOut(f"no time: {max(0.0, self._deadline - started):.0f} s are left")
            found = measure()
            found["seconds"] = round(time.monotonic() - started, 1)
        except LeftOut as why:
            found = {"left_out": str(why)}
        except Exception as error:  # the rows after it are worth having
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}"}
            self.failed.append(name)
        self.note(name, found)
        shown = (f"{k} {v:,.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items())
        print(f"{name}: {', '.join(shown)}", flush=True)
        self.free()

    def free(self) -> None:
        """Give memory that nothing uses back to the device."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()


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
        circumstance=Circumstance(micro_batch=micro_batch),
        **given,
    )
    return times.seconds[2:], result.peak_memory_bytes


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
        ratio = second["ms_per_iteration"] / first["ms_per_iteration"]
        print(f"stages, stage 1, {base}: {first['ms_per_iteration']:.0f} ms", flush=True)
        return {**second, "over_stage1": ratio, "paper_over_stage1": 5343 / 6671}

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
    return (4 * weights + attention) * tokens / seconds / (peak * 1e12)


def arithmetic(bench: Bench) -> None:
    """Forward and backward of one step of stage 1, four ways on the same model, interleaved."""
    size, device = bench.size, bench.device

    def measure() -> dict[str, Any]:
        base = random_llama(bench, four_bit=False)
        model = adapted(base, [layer.name for layer in layers_of(base)]).train()
        rows = random_rows(size, size.batch, size.length)
        packed = [rows[i : i + size.micro_batch] for i in range(0, len(rows), size.micro_batch)]
        batches = [
            {k: v.to(device) for k, v in collate([[row] for row in part]).items()}
            for part in packed
        ]
        token_loss = TokenLoss(model)

        def passes(ours: bool, checkpointing: bool) -> None:
            if checkpointing:
                base.gradient_checkpointing_enable({"use_reentrant": False})
            try:
                if not ours:
                    for batch in batches:
                        token_loss.backward(batch, size.batch * size.length)
                    return
                with fused_lora(model), keeping_less(model):
                    for batch in batches:
                        token_loss.backward(batch, size.batch * size.length)
            finally:
                base.gradient_checkpointing_disable()

        def own_loss() -> None:
            for batch in batches:
                model(**batch).loss.backward()

        ways: dict[str, Callable[[], None]] = {
            "ours": lambda: passes(True, False),
            "ours_checkpointing": lambda: passes(True, True),
            "peft": lambda: passes(False, False),
            "peft_checkpointing": lambda: passes(False, True),
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
                ratios = [a / b for a, b in zip(seconds[way], seconds["ours"], strict=True)]
                found[f"{way}_ms"] = 1000 * statistics.median(seconds[way])
                found[f"{way}_over_ours"] = statistics.median(ratios)
                found[f"{way}_gib"] = peaks[way]
        return found

    bench.row("arithmetic", measure, needs=90)


def timed(compute: Callable[[], None], device: str) -> tuple[float, float | None]:
    """Seconds, and peak GiB of tensors where the device counts them."""
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    compute()
    if cuda:
        torch.cuda.synchronize(device)
    spent = time.perf_counter() - started
    return spent, torch.cuda.max_memory_allocated(device) / 2**30 if cuda else None


def table7(bench: Bench) -> None:
    """Memory of three steps at 2 x 1,024; the 30 % are drawn at random, for the weights are."""
    size = bench.size
    conversations, length = size.table7

    def measure(four_bit: bool, share: float, which: str) -> dict[str, Any]:
        base = random_llama(bench, four_bit=four_bit)
        layers = layers_of(base)
        names = [layer.name for layer in layers]
        count = round(share * len(names))
        chosen = names[-count:] if which == "last" else random.Random(0).sample(names, count)
        model = adapted(base, chosen)
        seconds, peak = train_steps(bench, model, conversations, length, conversations, 2)
        found: dict[str, Any] = {"layers": len(chosen), "ms": 1000 * statistics.median(seconds)}
        if bench.cuda:
            found["mib"] = (peak or 0) / 2**20
            found["reserved_mib"] = torch.cuda.max_memory_reserved() / 2**20
        found["forecast_mib"] = forecast_of(size, layers, four_bit).memory(chosen) / 2**20
        return found

    def peft_alone(share: float) -> dict[str, Any]:
        """As the paper measured, it seems: the model's own loss, PEFT's own arithmetic, AdamW."""
        base = random_llama(bench, four_bit=False)
        names = [layer.name for layer in layers_of(base)]
        chosen = random.Random(0).sample(names, round(share * len(names)))
        model = adapted(base, chosen).train()
        ids = torch.randint(size.vocabulary, (conversations, length), device=bench.device)
        optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)

        def steps() -> None:
            for _ in range(3):
                model(input_ids=ids, labels=ids).loss.backward()
                optimizer.step()
                optimizer.zero_grad()

        _, peak = timed(steps, bench.device)
        return {"mib": peak and 1024 * peak}

    for method, four_bit in (("lora", False), ("qlora", True)):
        for share, which in ((1.0, "random"), (0.3, "random"), (0.3, "last")):
            name = f"{method} {share:.0%}"
            last = ", the last layers" if which == "last" else ""

            def row(
                four_bit: bool = four_bit, share: float = share, which: str = which, n: str = name
            ) -> dict[str, Any]:
                return {**measure(four_bit, share, which), "paper_mib": PAPER_MIB[n]}

            bench.row(f"table7, {name}{last}", row, needs=30)
    for share in (1.0, 0.3):
        bench.row(f"table7, lora {share:.0%}, PEFT alone", lambda s=share: peft_alone(s), needs=30)


def forecast_of(size: Size, layers: list[Any], four_bit: bool) -> Forecast:
    conversations, length = size.table7
    architecture = {**size.config.to_diff_dict(), "model_type": "llama"}
    for field in ("transformers_version", "dtype", "architectures"):
        architecture.pop(field, None)
    config = ModelConfig(
        name="random",
        source="./random",
        architecture=architecture,
        dtype=str(size.dtype).removeprefix("torch."),
        lm_head="adapt",
    )
    return Forecast.of(
        config,
        layers,
        "qlora" if four_bit else "lora",
        LORA,
        batch_size=conversations,
        micro_batch=conversations,
        length=length,
    )


BASE = ROOT / "ila_core" / "demo" / "base"
DATA = ROOT / "ila_core" / "demo" / "data" / "terse.jsonl"


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

    def here(stage: str) -> Circumstance:
        return Circumstance(
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
        circumstance=here("stage1"),
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
    return learn_gates(model, adapter, rows, gates, seed=0, circumstance=here("stage2")).scores


def search(bench: Bench) -> None:
    """The same search whole, killed and resumed, and on a CPU."""
    steps = bench.size.search_steps

    def quiet(stage: str, step: int) -> None:
        pass

    def start(folder: Path) -> subprocess.Popen[str]:
        options = ["--search-in", str(folder), "--device", bench.device, "--steps", str(steps)]
        command = [sys.executable, *isolation(), __file__, *options]
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


def isolation() -> list[str]:
    """The interpreter's own flags, for a child that must find no more than its parent."""
    return ["-S"] if sys.flags.no_site else []


def conditions(bench: Bench, chosen: str) -> dict[str, Any]:
    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    libraries = ("torch", "transformers", "peft", "accelerate", "pydantic", "bitsandbytes")
    shape = {k: str(v) if k == "dtype" else v for k, v in vars(bench.size).items()}
    found = {
        "size": chosen,
        **shape,
        "device": torch.cuda.get_device_name(bench.device) if bench.cuda else platform.machine(),
        "python": platform.python_version(),
        **{name: installed(name) for name in libraries},
    }
    if bench.cuda:
        found["matmul_tflops"] = matmul_tflops(bench.device)
    return found


def matmul_tflops(device: str) -> float:
    """The rate that a large product of bfloat16 matrices reaches: what can be had at most."""
    n = 8192
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    spent, _ = timed(lambda: [a @ b for _ in range(10)] and None, device)
    return 10 * 2 * n**3 / spent / 1e12


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rehearse", action="store_true", help="tiny, on a CPU")
    parser.add_argument("--seconds", type=float, default=450, help="time for all rows")
    parser.add_argument("--out", type=Path, help="where each row goes as soon as it is measured")
    parser.add_argument("--device", help=argparse.SUPPRESS)
    parser.add_argument("--search-in", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.search_in:

        def report(stage: str, step: int) -> None:
            print(stage, step, flush=True)

        print(json.dumps(search_once(args.search_in, args.device, args.steps, report)))
        return
    if not args.rehearse and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here; --rehearse measures everything at tiny size")
    chosen, device = ("tiny", "cpu") if args.rehearse else ("7B", "cuda")
    bench = Bench(SIZES[chosen], device, args.seconds, args.out)
    bench.note("conditions", conditions(bench, chosen))
    print(json.dumps(bench.results["conditions"], indent=1), flush=True)
    stages(bench, four_bit=False)
    arithmetic(bench)
    table7(bench)
    stages(bench, four_bit=True)
    search(bench)
    if bench.failed:
        sys.exit(f"{len(bench.failed)} rows failed: {', '.join(bench.failed)}")


if __name__ == "__main__":
    main()
