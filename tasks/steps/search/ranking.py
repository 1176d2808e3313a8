"""Gather the ranking: every layer's score per dataset and search seed, in one document."""

from collections.abc import Mapping
from pathlib import Path

from ila_core.config import SearchConfig
from ila_core.models.layers import fingerprint
from ila_core.provenance import provenance
from ila_core.search.certainty import unsure_layers
from ila_core.search.ranking import Coverage, LayerScores, Ranking, Rendering
from tasks.cache.payloads import read_json
from tasks.cache.step import Context, Step, in_order
from tasks.steps.base import Base

VERSION = 1

Scores = Mapping[str, Mapping[int, Step]]
"""Dataset and search seed to the step of its scores, `stage2` or `score`."""


def rank(base: Base, scores: Scores, search: SearchConfig) -> Step:
    """Describe the ranking over all datasets that were searched."""
    return Step(
        "ranking",
        label="ranking",
        version=VERSION,
        identity=base.identify(base_model=base.config.name, keep=search.keep),
        inputs=score_inputs(scores, list(scores)),
        given={"base": base, "search": search},
    )


def score_inputs(scores: Scores, datasets: list[str]) -> dict[str, Step]:
    """Return the scores of `datasets` as inputs named `dataset/seed`."""
    return {f"{d}/{seed}": step for d in datasets for seed, step in scores[d].items()}


def gather(step: Step, inputs: dict[str, Path]) -> Ranking:
    """Gather the ranking from those inputs of `step` that are scores (`dataset/seed`)."""
    base: Base = step.given["base"]
    search: SearchConfig = step.given["search"]
    scores: dict[str, dict[str, dict[str, float]]] = {}
    keys: dict[str, dict[str, str]] = {}
    stable: dict[str, dict[str, bool | None]] = {}
    digests: dict[str, str] = {}
    settings: dict[str, object] = {}
    max_length: int | None = None
    for name, upstream in step.inputs.items():
        dataset, _, seed = name.rpartition("/")
        if not dataset:
            continue
        found = read_json(inputs[name] / f"{upstream.name}.json")
        scores.setdefault(dataset, {})[seed] = found["scores"]
        stable.setdefault(dataset, {})[seed] = found.get("stable")
        keys.setdefault(dataset, {})[seed] = str(upstream.key)
        behind = {x.name: x for x in in_order(upstream)}
        if prepared := behind.pop("prepare", None):
            digests[dataset] = str(prepared.key)
            max_length = prepared.given["data"].max_length
        settings[dataset] = {kind: x.fields for kind, x in behind.items()}
    examined = base.lock.examined(base.config)
    ranking = Ranking(
        base_model=base.config.name,
        model=base.files,
        architecture=fingerprint(base.layers),
        key=str(step.key),
        scorer=search.scorer,
        keep=search.keep,
        score_keys=keys,
        stable=stable,
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
        versions=provenance()["libraries"],
        unsure={},
        coverage=Coverage(share=examined.share, outside=examined.outside),
        rendering=Rendering(
            template=base.config.template,
            template_variables=base.config.template_variables,
            max_length=max_length,
        ),
    )
    unsure = {d: unsure_layers(ranking, d, search.keep) for d in ranking.datasets}
    return ranking.model_copy(update={"unsure": unsure})


def compute(step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
    gather(step, inputs).save(out / "ranking.json")
