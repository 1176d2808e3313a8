"""Stage 1: LoRA on every layer until the loss is epsilon-stable (Definition 1)."""

from __future__ import annotations

from pathlib import Path

from ila_core.config import Schedule, Stage1Settings
from tasks.step import Context, Step
from tasks.steps.base import Base
from tasks.steps.payload import write_result

VERSION = 3


def stage1(
    base: Base, data: Step, dataset: str, settings: Stage1Settings, schedule: Schedule, seed: int
) -> Step:
    """The adapter of one dataset and search seed."""
    return Step(
        "stage1",
        label=f"stage1 {dataset} seed {seed}",
        version=VERSION,
        identity=base.identify_training(settings=settings, schedule=schedule, seed=seed),
        inputs={"data": data},
        given={
            "base": base,
            "settings": settings,
            "schedule": schedule,
            "seed": seed,
            "names": {"dataset": dataset, "seed": seed},
        },
    )


def compute(step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
    from ila_core.data.prepared import Prepared
    from ila_core.stage1 import learn_adapter

    given = step.given
    base: Base = given["base"]
    result = learn_adapter(
        base.load(context.runtime),
        [layer.name for layer in base.layers],
        Prepared.load(inputs["data"]).splits["train"],
        given["settings"],
        given["schedule"],
        seed=given["seed"],
        adapter_folder=out / "adapter",
        base_name=base.address,
        circumstance=context.training(step.label),
    )
    write_result(out / "stage1.json", result, context)
