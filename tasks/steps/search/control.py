"""The positive control: plant noise in some layers, and measure whether the scores show it."""

import tempfile
from pathlib import Path

from ila_core.config import SearchConfig
from ila_core.data.prepared import Prepared
from ila_core.search.scorers import ILA, SCORERS
from ila_core.search.scoring import Material
from ila_core.train.methods.lora import load_adapter, save_adapter
from tasks.cache.payloads import write_json
from tasks.cache.step import Context, Step
from tasks.steps.base import Base
from tasks.steps.search import stage2
from tasks.steps.search.stage1 import adapter_folder

VERSION = 1


def control(
    base: Base, adapter: Step, data: Step, dataset: str, search: SearchConfig, seed: int, draw: int
) -> Step:
    """Describe the AUC of one draw of corrupted layers; `seed` is the search seed."""
    gates = search.scorer == ILA
    return Step(
        "control",
        label=f"control {dataset} seed {seed} draw {draw}",
        version=VERSION,
        identity=base.identify_training(
            scorer=search.scorer,
            version=stage2.VERSION if gates else SCORERS[search.scorer].version,
            settings=search.stage2 if gates else search.scoring,
            seed=seed,
            draw=draw,
            fraction=search.control.fraction,
            factor=search.control.factor,
        ),
        inputs={"adapter": adapter, "data": data},
        given={
            "base": base,
            "search": search,
            "seed": seed,
            "draw": draw,
            "names": {"dataset": dataset, "draw": draw},
        },
    )


def compute(step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
    from ila_core.search.control import auc, plant_noise
    from ila_core.search.gates import learn_gates

    given = step.given
    base: Base = given["base"]
    search: SearchConfig = given["search"]
    splits = Prepared.load(inputs["data"]).splits
    loaded = base.load(context.runtime)
    model = load_adapter(loaded, adapter_folder(inputs["adapter"], None))
    corrupted = plant_noise(
        model, seed=given["draw"], fraction=search.control.fraction, factor=search.control.factor
    )
    if search.scorer == ILA:
        with tempfile.TemporaryDirectory() as folder:
            save_adapter(model, Path(folder))
            scores = learn_gates(
                model.unload(),
                Path(folder),
                splits[search.stage2.rows],
                search.stage2,
                seed=given["seed"],
                runtime=context.training(step.label),
            ).scores
    else:
        material = Material(
            layers=base.layers,
            model=model,
            rows=splits[search.scoring.rows],
            settings=search.scoring,
            seed=given["seed"],
            micro_batch=context.runtime.micro_batch,
        )
        scores = SCORERS[search.scorer].score(material).scores
    found = {"auc": auc(scores, corrupted), "corrupted": corrupted, "scores": scores}
    write_json(out / "control.json", found)
