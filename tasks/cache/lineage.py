"""Where a ranking comes from, and what was made with it: by what cached steps record of inputs.

A selection records the scores that it read, and a search's own the steps that gave them; so what
used a ranking is found by content, however it was called, renamed or published.
"""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

from ila_core.keys import canonical
from ila_core.search.ranking import Ranking, digest_read
from tasks.cache.lookup import Lookup
from tasks.cache.payloads import fetch, measurements, read_json
from tasks.cache.step_run import StepRun


@dataclass(frozen=True)
class Lineage:
    """The finished steps on both sides of a ranking, inputs before users."""

    made_by: tuple[StepRun, ...]
    """The search's steps that this MLflow holds."""
    used_by: tuple[StepRun, ...]
    """Selections, and what was fine-tuned with them."""

    def of_kind(self, name: str) -> tuple[StepRun, ...]:
        return tuple(r for r in (*self.made_by, *self.used_by) if r.tags["ila.step"] == name)


def lineage(ranking: Ranking, lookup: Lookup) -> Lineage:
    """Find what made `ranking`, and what was trained with it."""
    return Lineage(tuple(_made(ranking, lookup)), tuple(_used(ranking, lookup)))


def seconds(found: Lineage) -> float | None:
    """What the search took in all its steps; `None` where this MLflow does not hold them."""
    spent = [measurements(run).get("seconds") for run in found.made_by]
    known = [float(s) for s in spent if s is not None]
    return sum(known) if found.of_kind("stage1") or found.of_kind("score") else None


def controls(ranking: Ranking, found: Lineage, lookup: Lookup, home: Path) -> dict[str, float]:
    """Average the AUC of this search's finished positive controls, by dataset."""
    aucs: dict[str, list[float]] = {}
    for adapter in found.of_kind("stage1"):
        for run in lookup.finished_with("control", "input.adapter", adapter.key):
            if run.params.get("scorer") == canonical(ranking.scorer):
                auc = read_json(fetch(run, home) / "control.json")["auc"]
                aucs.setdefault(run.tags["ila.dataset"], []).append(auc)
    return {dataset: fmean(values) for dataset, values in aucs.items()}


def licences(found: Lineage) -> dict[str, str]:
    """Return each dataset's licence where the steps that prepared it have recorded one."""
    tags = [run.tags for run in found.of_kind("prepare")]
    return {t["ila.dataset"]: t["ila.licence"] for t in tags if t.get("ila.licence")}


def _made(ranking: Ranking, lookup: Lookup) -> list[StepRun]:
    scores = [key for of_seed in ranking.score_keys.values() for key in of_seed.values()]
    scored = [run for key in dict.fromkeys(scores) for run in lookup.finished(key)[:1]]
    trained = dict.fromkeys(
        r.params["input.adapter"] for r in scored if "input.adapter" in r.params
    )
    before = dict.fromkeys((*ranking.data_keys.values(), *trained))
    inputs = [run for key in before for run in lookup.finished(key)[:1]]
    return [*inputs, *scored, *lookup.finished(ranking.key)[:1]]


def _used(ranking: Ranking, lookup: Lookup) -> list[StepRun]:
    datasets = ranking.datasets
    read = {(d,) for d in datasets} | {datasets}
    given = chain.from_iterable(
        lookup.finished_with("selection", "ranking", canonical(digest_read(ranking, r)))
        for r in sorted(read)
    )
    own = chain.from_iterable(
        lookup.finished_with("selection", f"input.{d}/{s}", key)
        for d, of_seed in ranking.score_keys.items()
        for s, key in of_seed.items()
    )
    selections = {r.run_id: r for r in (*given, *own) if _is_of(ranking, r.params)}
    keys = dict.fromkeys(r.key for r in selections.values())
    trained = [r for k in keys for r in lookup.finished_with("finetune", "input.selection", k)]
    return [*selections.values(), *trained]


def _is_of(ranking: Ranking, params: dict[str, Any]) -> bool:
    """Whether all scores that a selection read are the ranking's: seeds may be fewer elsewhere."""
    read = {n.removeprefix("input."): v for n, v in params.items() if "/" in n}
    known = {f"{d}/{s}": k for d, of_seed in ranking.score_keys.items() for s, k in of_seed.items()}
    datasets = {name.rpartition("/")[0] for name in read}
    return read == {n: k for n, k in known.items() if n.rpartition("/")[0] in datasets}
