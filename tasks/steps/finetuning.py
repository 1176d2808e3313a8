"""Fine-tune the selected layers, all others frozen, and prove that it was so."""

from __future__ import annotations

from pathlib import Path

from ila_core.config import FinetuneConfig
from ila_core.errors import unknown_name
from ila_core.methods import METHODS
from tasks.step import Context, Step
from tasks.steps.base import Base
from tasks.steps.payload import write_result
from tasks.steps.selection import load as load_selection

VERSION = 4


def finetune(base: Base, selection: Step, data: Step, settings: FinetuneConfig, seed: int) -> Step:
    """The adapter of one arm and seed."""
    arm = selection.given["arm"]
    if settings.method not in METHODS:
        raise unknown_name("method", settings.method, METHODS)
    return Step(
        "finetune",
        label=f"finetune {arm.name} seed {seed}",
        version=VERSION,
        identity=base.identify_training(
            settings=settings.model_dump(
                exclude={"dataset", "seeds", "arms"}, exclude_defaults=True
            ),
            seed=seed,
        ),
        inputs={"selection": selection, "data": data},
        given={
            "base": base,
            "settings": settings,
            "seed": seed,
            "names": {"arm": arm.name, "policy": arm.policy, "seed": seed},
        },
    )


def compute(step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
    from ila_core.data.prepared import Prepared
    from ila_core.finetune import finetune as train_selected

    given = step.given
    base: Base = given["base"]
    result = train_selected(
        base.load(context.runtime),
        load_selection(inputs["selection"]).train,
        Prepared.load(inputs["data"]).splits["train"],
        given["settings"],
        seed=given["seed"],
        adapter_folder=out / "adapter",
        base_name=base.address,
        circumstance=context.training(step.label),
    )
    write_result(out / "finetune.json", result, context)
