"""Evaluation of the base and of every fine-tuned adapter on the held-out conversations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ila_core.benchmarks import BENCHMARKS
from ila_core.config import BASE, EvaluateConfig
from ila_core.errors import unknown_name
from tasks.step import Context, Step
from tasks.steps.base import Base
from tasks.steps.finetuning import load_tuned
from tasks.steps.payload import write_json


def evaluate(
    base: Base, tuned: Mapping[str, Mapping[int, Step]], data: Step, settings: EvaluateConfig
) -> list[Step]:
    """One evaluation per benchmark of the base and of each arm and seed."""
    steps = []
    for benchmark in settings.benchmarks:
        steps.append(_evaluation(base, None, data, benchmark, {"arm": BASE, "seed": None}))
        for adapters in tuned.values():
            for adapter in adapters.values():
                names = adapter.given["names"]
                steps.append(_evaluation(base, adapter, data, benchmark, names))
    return steps


def _evaluation(
    base: Base, adapter: Step | None, data: Step, benchmark: str, names: Mapping[str, Any]
) -> Step:
    if benchmark not in BENCHMARKS:
        raise unknown_name("benchmark", benchmark, BENCHMARKS)
    who = "base" if adapter is None else f"{names['arm']} seed {names['seed']}"
    return Step(
        "evaluation",
        label=f"{benchmark} {who}",
        version=BENCHMARKS[benchmark].version,
        identity=base.identify_training(benchmark=benchmark),
        inputs={"data": data} | ({} if adapter is None else {"adapter": adapter}),
        given={"base": base, "benchmark": benchmark, "names": names},
    )


def compute(step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
    from ila_core.data.prepared import Prepared

    base: Base = step.given["base"]
    tuned = step.inputs.get("adapter")
    model = load_tuned(tuned, inputs["adapter"], context) if tuned else base.load(context.runtime)
    result = BENCHMARKS[step.given["benchmark"]].run(
        model,
        Prepared.load(inputs["data"]).splits["held_out"],
        eval_batch=context.runtime.eval_batch,
        progress=context.runtime.progress,
    )
    context.on_metrics(0, {"loss": result.loss})
    write_json(out / "evaluation.json", result.model_dump(mode="json"))
