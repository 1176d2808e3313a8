"""Table 7: the memory of LoRA and QLoRA on all layers and on 30 % of them."""

from __future__ import annotations

import random
import statistics
from functools import partial
from typing import Any

import torch

from benchmarks.gpu_parts.bench import Bench, Size, timed
from benchmarks.gpu_parts.models import LORA, adapted, random_llama, train_steps
from ila_core.config import ModelConfig
from ila_core.models.layers import Layer, layers_of
from ila_core.train.forecast import Forecast

PAPER_MIB = {
    ("lora", 1.0): 32988,
    ("lora", 0.3): 25614,
    ("qlora", 1.0): 26032,
    ("qlora", 0.3): 18142,
}


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
        found["paper_mib"] = PAPER_MIB["qlora" if four_bit else "lora", share]
        if bench.cuda:
            found["mib"] = (peak or 0) / 2**20
            found["reserved_mib"] = torch.cuda.max_memory_reserved() / 2**20
        found["forecast_mib"] = forecast_of(size, layers, four_bit).memory(chosen) / 2**20
        return found

    def peft_alone(four_bit: bool, share: float) -> dict[str, Any]:
        """The model's own loss, PEFT's own arithmetic, AdamW: near the paper's own figures."""
        base = random_llama(bench, four_bit=four_bit)
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
        for share in (1.0, 0.3):
            row = f"table7, {method} {share:.0%}"
            bench.row(row, partial(measure, four_bit, share, "random"), needs=30)
            bench.row(f"{row}, PEFT alone", partial(peft_alone, four_bit, share), needs=30)
        bench.row(f"{row}, the last layers", partial(measure, four_bit, 0.3, "last"), needs=30)


def forecast_of(size: Size, layers: list[Layer], four_bit: bool) -> Forecast:
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
