"""Score the layers from a stage-1 adapter, by the gates (stage 2) or another scorer."""

from pathlib import Path

from ila_core.config import SearchConfig
from ila_core.data.prepared import Prepared
from ila_core.errors import UserError, unknown_name
from ila_core.models.loading import resolve_device
from ila_core.search.scorers import ILA, SCORER_NAMES, SCORERS, check_scorer
from ila_core.search.scoring import Material
from ila_core.train.methods.lora import load_adapter
from tasks.cache.payloads import write_json
from tasks.cache.step import Context, Step
from tasks.steps.base import Base
from tasks.steps.search.stage1 import adapter_folder, behind, stage1_end
from tasks.steps.search.stage2 import stage2

VERSION = 1


def score(
    base: Base,
    adapter: Step | None,
    data: Step | None,
    dataset: str,
    search: SearchConfig,
    seed: int,
    *,
    scorer: str,
    milestone: float | None = None,
) -> Step:
    """Describe the scores of one scorer, dataset and search seed.

    Args:
        adapter: that of stage 1; `None` where there are no data, as `data`.
        milestone: reads the adapter at this fraction of stage 1; by default at its end.

    Raises:
        UserError: an unknown scorer, or one that needs data where there are none.
    """
    if scorer not in SCORER_NAMES:
        raise unknown_name("scorer", scorer, SCORER_NAMES)
    if adapter is None or data is None:
        alone = [name for name, known in SCORERS.items() if known.needs in ("shapes", "weights")]
        if scorer not in alone:
            raise UserError(
                f"the scorer {scorer} reads what was trained on data: give --data (`datasets:`), "
                f"or search.scorer {' or '.join(alone)}, which read the model alone"
            )
    elif scorer == ILA:
        return stage2(base, adapter, data, dataset, search.stage2, seed, milestone)
    check_scorer(scorer, base.layers)
    needs = SCORERS[scorer].needs
    identity: dict[str, object] = {
        "scorer": scorer,
        "scorer version": SCORERS[scorer].version,
    }
    inputs: dict[str, Step] = {}
    if scorer == "random" or needs == "rows":
        identity["seed"] = seed
    if adapter is not None and needs in ("adapter", "rows"):
        inputs["adapter"] = adapter
        identity["milestone"] = milestone
    if data is not None and needs == "rows":
        inputs["data"] = data
        identity["settings"] = search.scoring
    of = "" if adapter is None else behind(adapter, seed, milestone)
    return Step(
        "score",
        label=f"score {scorer} {dataset} seed {seed}{of}",
        version=VERSION,
        identity=base.identify_training(**identity),
        inputs=inputs,
        given={
            "base": base,
            "scorer": scorer,
            "settings": search.scoring,
            "seed": seed,
            "milestone": milestone,
            "names": {"dataset": dataset, "seed": seed, "scorer": scorer},
        },
    )


def compute(step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
    import torch

    from ila_core.train.memory import measured

    given = step.given
    base: Base = given["base"]
    scorer = SCORERS[given["scorer"]]
    model = None if scorer.needs == "shapes" else base.load(context.runtime)
    if "adapter" in inputs:
        model = load_adapter(model, adapter_folder(inputs["adapter"], given["milestone"]))
    rows = Prepared.load(inputs["data"]).splits[given["settings"].rows] if "data" in inputs else []
    material = Material(
        layers=base.layers,
        model=model,
        rows=rows,
        settings=given["settings"],
        seed=given["seed"],
        micro_batch=context.runtime.micro_batch,
    )
    # Without loading the model, as the gates' seconds are.
    device = torch.device(resolve_device(context.runtime.device))
    with measured(device) as spent:
        result = scorer.score(material)
    context.measurements["seconds"] = spent.seconds
    context.measurements["peak_memory_bytes"] = spent.peak_memory_bytes
    end = stage1_end(inputs["adapter"]) if "adapter" in inputs else {}
    write_json(out / "score.json", result.model_dump(mode="json") | end)
