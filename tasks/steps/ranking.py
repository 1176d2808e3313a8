"""The search's one document: every layer's score per dataset and seed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ila_core.ranking import LayerScores, Ranking
from tasks.step import Context, Step
from tasks.steps.base import Base
from tasks.steps.payload import read_json

VERSION = 1

Scores = Mapping[str, Mapping[int, Step]]
"""The stage-2 step of each dataset and search seed."""


def rank(base: Base, scores: Scores) -> Step:
    """The ranking of all datasets searched."""
    return Step(
        "ranking",
        label="ranking",
        version=VERSION,
        identity=base.identify(base_model=base.config.name),
        inputs=score_inputs(scores, list(scores)),
        given={"base": base},
    )


def score_inputs(scores: Scores, datasets: list[str]) -> dict[str, Step]:
    """The stage-2 steps of `datasets`, as inputs named `dataset/seed`."""
    return {f"{d}/{seed}": step for d in datasets for seed, step in scores[d].items()}


def gather(step: Step, inputs: dict[str, Path]) -> Ranking:
    """The ranking over those inputs of `step` that are scores (`dataset/seed`)."""
    from ila_core.layers import fingerprint
    from ila_core.reproducibility import library_versions

    base: Base = step.given["base"]
    scores: dict[str, dict[str, dict[str, float]]] = {}
    keys: dict[str, dict[str, str]] = {}
    digests: dict[str, str] = {}
    settings: dict[str, object] = {}
    for name, upstream in step.inputs.items():
        if upstream.name != "stage2":
            continue
        dataset, _, seed = name.rpartition("/")
        scores.setdefault(dataset, {})[seed] = read_json(inputs[name] / "stage2.json")["scores"]
        keys.setdefault(dataset, {})[seed] = str(upstream.key)
        digests[dataset] = str(upstream.inputs["data"].key)
        settings[dataset] = {
            "stage1": upstream.inputs["adapter"].fields,
            "stage2": upstream.fields,
        }
    return Ranking(
        base_model=base.config.name,
        model=base.files,
        architecture=fingerprint(base.layers),
        key=str(step.key),
        scorer="ila",
        score_keys=keys,
        data_keys=digests,
        settings=settings,
        layers=tuple(
            LayerScores(
                **layer.model_dump(),
                scores={
                    d: {s: v[layer.name] for s, v in seeds.items()} for d, seeds in scores.items()
                },
            )
            for layer in base.layers
        ),
        versions=library_versions(),
    )


def compute(step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
    gather(step, inputs).save(out / "ranking.json")
