"""Compute the mask curves of one adapter: held-out loss as adapters close in a scorer's order."""

import random
from collections.abc import Mapping
from pathlib import Path

from ila_core.config import EvidenceSettings, SearchConfig
from ila_core.data.prepared import Prepared
from ila_core.evaluate.benchmarks import BENCHMARKS
from ila_core.search.scorers import IN_NATS
from ila_core.train.methods.lora import load_adapter
from tasks.cache.payloads import read_json, write_json
from tasks.cache.step import Context, Step
from tasks.steps.base import Base
from tasks.steps.search.stage1 import adapter_folder

VERSION = 1
RESAMPLES, CONFIDENCE = 2000, 0.95
"""Bootstrap resamples and confidence of each area's interval."""


def mask(
    base: Base,
    adapter: Step,
    data: Step,
    scores: Mapping[str, Step],
    dataset: str,
    search: SearchConfig,
    seed: int,
) -> Step:
    """Describe curves and areas of the scorers in `scores` and of random orders."""
    return Step(
        "mask",
        label=f"mask {dataset} seed {seed}",
        version=VERSION,
        identity=base.identify_training(
            benchmark=BENCHMARKS["held_out_loss"].version,
            held_out=search.evidence.held_out,
            fractions=search.evidence.fractions,
            random_orders=search.evidence.random_orders,
            controls_of=search.scorer,
            seed=seed,
        ),
        inputs={"adapter": adapter, "data": data}
        | {f"scores {name}": step for name, step in scores.items()},
        given={
            "base": base,
            "evidence": search.evidence,
            "scorer": search.scorer,
            "seed": seed,
            "names": {"dataset": dataset, "seed": seed},
        },
    )


def compute(step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
    from ila_core.search.mask_curve import mask_curves, per_weight
    from ila_core.search.masked_loss import MaskedLoss

    given = step.given
    base: Base = given["base"]
    settings: EvidenceSettings = given["evidence"]
    scores = {
        name.removeprefix("scores "): read_json(inputs[name] / f"{upstream.name}.json")["scores"]
        for name, upstream in step.inputs.items()
        if name.startswith("scores ")
    }
    # A share of the loss can be divided by a size, where closed weights are counted; a gate's logit
    # cannot.
    by_weight = {
        f"{name} per weight": per_weight(scores[name], base.layers)
        for name in scores
        if name == IN_NATS
    }
    held_out = Prepared.load(inputs["data"]).splits["held_out"]
    count = min(settings.held_out, len(held_out))
    chosen = sorted(random.Random(given["seed"]).sample(range(len(held_out)), count))
    masked = MaskedLoss(
        load_adapter(base.load(context.runtime), adapter_folder(inputs["adapter"], None)),
        [held_out[i] for i in chosen],
        eval_batch=context.runtime.eval_batch,
        on_evaluation=lambda: context.on_metrics(masked.evaluations, {}),
    )
    curves = {
        by: mask_curves(
            masked,
            base.layers,
            scores if by == "count" else scores | by_weight,
            by=by,
            controls_of=[given["scorer"]],
            seed=given["seed"],
            resamples=RESAMPLES,
            confidence=CONFIDENCE,
            random_orders=settings.random_orders,
            fractions=settings.fractions,
        ).model_dump(mode="json")
        for by in ("count", "share")
    }
    write_json(out / "mask.json", curves | {"conversations": count})
