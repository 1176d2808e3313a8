"""Held-out evaluation of the base and of every fine-tuned adapter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ila_core.config import EvaluateConfig
from tasks.step import Context, Step
from tasks.steps.base import Base
from tasks.steps.payload import write_json


def evaluate(
    base: Base, tuned: Mapping[str, Mapping[int, Step]], data: Step, settings: EvaluateConfig
) -> dict[str, Step]:
    """One evaluation per benchmark of the base and of each arm and seed, by label."""
    models: dict[str, Step | None] = {"base": None}
    models |= {f"{arm} seed {s}": step for arm, seeds in tuned.items() for s, step in seeds.items()}
    steps = [
        _evaluation(base, adapter, data, benchmark, model)
        for benchmark in settings.benchmarks
        for model, adapter in models.items()
    ]
    return {step.label: step for step in steps}


def _evaluation(base: Base, adapter: Step | None, data: Step, benchmark: str, model: str) -> Step:
    from ila_core.benchmarks import benchmark_version

    return Step(
        "evaluation",
        label=f"{benchmark} of {model}",
        version=benchmark_version(benchmark),
        identity=base.identify_training(benchmark=benchmark),
        inputs={"data": data} | ({"adapter": adapter} if adapter else {}),
        given={"base": base, "benchmark": benchmark},
    )


def compute(step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
    from ila_core.data.prepare import Prepared

    from ila_core.benchmarks import BENCHMARKS

    base: Base = step.given["base"]
    model = base.load(context.runtime)
    if "adapter" in inputs:
        from ila_core.methods.lora import load_adapter

        model = load_adapter(model, inputs["adapter"] / "adapter")
    result = BENCHMARKS[step.given["benchmark"]].evaluate(
        model, Prepared.load(inputs["data"]).splits["held_out"], context.runtime.eval_batch
    )
    context.on_metrics(0, {"loss": result.loss})
    write_json(out / "evaluation.json", result)
