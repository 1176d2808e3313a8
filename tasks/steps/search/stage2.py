"""Stage 2: freeze all weights and learn one gate per layer (Eq. 5-7)."""

from pathlib import Path

from ila_core.config import Stage2Settings
from ila_core.data.prepared import Prepared
from ila_core.search.scorers import ILA
from tasks.cache.payloads import write_result
from tasks.cache.step import Context, Step
from tasks.steps.base import Base
from tasks.steps.search.stage1 import adapter_folder, behind, stage1_end

VERSION = 3


def stage2(
    base: Base,
    adapter: Step,
    data: Step,
    dataset: str,
    settings: Stage2Settings,
    seed: int,
    milestone: float | None,
) -> Step:
    """Describe stage 2 of one dataset and seed, from the end of stage 1 or a milestone."""
    return Step(
        "stage2",
        label=f"stage2 {dataset} seed {seed}{behind(adapter, seed, milestone)}",
        version=VERSION,
        identity=base.identify_training(settings=settings, seed=seed, milestone=milestone),
        inputs={"adapter": adapter, "data": data},
        given={
            "base": base,
            "settings": settings,
            "seed": seed,
            "milestone": milestone,
            "names": {"dataset": dataset, "seed": seed, "scorer": ILA},
        },
    )


def compute(step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
    from ila_core.search.gates import learn_gates

    given = step.given
    settings: Stage2Settings = given["settings"]
    result = learn_gates(
        given["base"].load(context.runtime),
        adapter_folder(inputs["adapter"], given["milestone"]),
        Prepared.load(inputs["data"]).splits[settings.rows],
        settings,
        seed=given["seed"],
        runtime=context.training(step.label),
    )
    write_result(out / "stage2.json", result, context, **stage1_end(inputs["adapter"]))
