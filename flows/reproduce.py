"""`ila reproduce`: Table 2 and Figures 1 to 4 of the paper, ours beside the paper's numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flows.run import ProfilePlan, finished, plan_profile
from ila_core import paper
from ila_core.agreement import Agreement, compare
from ila_core.config import RuntimeConfig
from ila_core.errors import unknown_name
from ila_core.ranking import Layer, Ranking
from tasks.lookup import StepRun
from tasks.payloads import fetch
from tasks.step import Step
from tasks.steps.payload import read_json

if TYPE_CHECKING:
    from ila_core.report.figures import Drawing

Runs = Mapping[str, StepRun]
Column = tuple[str, Mapping[str, float]]


class Result(NamedTuple):
    """One table or figure of the paper."""

    title: str
    rows: list[dict[str, Any]]
    """Pairs that were compared, ours and the paper's."""
    drawings: list[Drawing]


def run_reproduce(
    given: str, what: Sequence[str], overrides: Sequence[str], *, as_json: bool
) -> None:
    """Compute what is missing for `what` (everything, if it is empty) and show it."""
    from flows.show import show_reproduction

    for name in what:
        if name not in FIGURES:
            raise unknown_name("table or figure", name, FIGURES)
    chosen = list(dict.fromkeys(what)) or list(FIGURES)
    until = "study" if {"fig2", "fig3", "fig4"} & set(chosen) else "search"
    planned = plan_profile(given, overrides, online=True, until=until)
    runs = finished(planned, until)
    results = {name: FIGURES[name](planned, runs) for name in chosen}
    folder = RuntimeConfig.from_env().home / "reproduce" / planned.profile.name
    files = {name: _save(result, folder / name) for name, result in results.items()}
    show_reproduction(results, files, as_json=as_json)


def table2(planned: ProfilePlan, runs: Runs) -> Result:
    """Agreement of every pair of datasets."""
    ranking = _ranking(planned, runs)
    rows = []
    for a, b in combinations(ranking.datasets, 2):
        agreed = _compare(planned, (a, ranking.scores(a)), (b, ranking.scores(b)))
        theirs = {
            model: found.get((a, b), found.get((b, a))) for model, found in paper.TABLE_2.items()
        }
        rows.append(_row(agreed) | {f"paper, {model}": x for model, x in theirs.items()})
    return Result("Table 2: Jaccard of the kept layers between datasets", rows, [])


def figure1(planned: ProfilePlan, runs: Runs) -> Result:
    """Scores by block and layer type, a map per dataset."""
    from ila_core.report.page import heat_maps

    drawings = heat_maps(_ranking(planned, runs), planned.profile.search.keep)
    return Result("Figure 1: scores of every layer, by dataset", [], drawings)


def figure2(planned: ProfilePlan, runs: Runs) -> Result:
    """The same along one stage 1."""
    from ila_core.report.page import heat_map_of

    study, search = planned.pipeline.study, planned.profile.search
    drawings = [
        heat_map_of(layers, scores, search.keep, title=f"{study.dataset} at {name}")
        for layers, (name, scores) in (
            (planned.pipeline.base.layers, column)
            for column in _columns(study.milestones, runs, _percent)
        )
    ]
    return Result(f"Figure 2: scores on {study.dataset} at milestones of stage 1", [], drawings)


def figure3(planned: ProfilePlan, runs: Runs) -> Result:
    """Agreement of seeds: of the gates alone, as in the paper, and of the whole search."""
    study = planned.pipeline.study
    kinds = {"gate seed": study.gate_seeds, "search seed": study.search_seeds}
    rows, drawings = [], []
    for kind, steps in kinds.items():
        columns = _columns(steps, runs, f"{kind} {{}}".format)
        theirs = paper.FIGURE_3 if kind == "gate seed" else {}
        found, drawing = _pairs(planned, columns, list(steps), theirs, f"{kind}s", study.dataset)
        rows += found
        drawings.append(drawing)
    return Result(f"Figure 3: Jaccard between seeds on {study.dataset}", rows, drawings)


def figure4(planned: ProfilePlan, runs: Runs) -> Result:
    """Agreement of milestones."""
    study = planned.pipeline.study
    columns = _columns(study.milestones, runs, _percent)
    rows, drawing = _pairs(
        planned, columns, list(study.milestones), paper.FIGURE_4, "milestones", study.dataset
    )
    title = f"Figure 4: Jaccard between milestones of stage 1 on {study.dataset}"
    return Result(title, rows, [drawing])


FIGURES: dict[str, Callable[[ProfilePlan, Runs], Result]] = {
    "table2": table2,
    "fig1": figure1,
    "fig2": figure2,
    "fig3": figure3,
    "fig4": figure4,
}


def _pairs(
    planned: ProfilePlan,
    columns: Sequence[Column],
    keys: Sequence[Any],
    theirs: Mapping[Any, float],
    what: str,
    dataset: str,
) -> tuple[list[dict[str, Any]], Drawing]:
    from ila_core.report.figures import jaccard_matrix

    rows, values = [], {}
    for (key_a, a), (key_b, b) in combinations(zip(keys, columns, strict=True), 2):
        agreed = _compare(planned, a, b)
        values[a[0], b[0]] = agreed.jaccard
        rows.append(_row(agreed) | {"paper, Llama 2-7B": theirs.get((key_a, key_b))})
    names = [name for name, _ in columns]
    title = f"{dataset}: {what}"
    return rows, jaccard_matrix(names, values, name=what.replace(" ", "-"), title=title)


def _columns(steps: Mapping[Any, Step], runs: Runs, name: Callable[[Any], str]) -> list[Column]:
    found = []
    for key, step in steps.items():
        payload = fetch(runs[str(step.key)])
        found.append((name(key), read_json(payload / f"{step.name}.json")["scores"]))
    return found


def _compare(planned: ProfilePlan, a: Column, b: Column) -> Agreement:
    layers: Sequence[Layer] = planned.pipeline.base.layers
    return compare(layers, planned.profile.search.keep, kind="datasets", a=a, b=b)


def _row(agreed: Agreement) -> dict[str, Any]:
    return {
        "first": agreed.a,
        "second": agreed.b,
        "Jaccard": agreed.jaccard,
        "chance": agreed.chance_jaccard,
        "99th pct": agreed.p99_jaccard,
        "chance in types": agreed.chance_within_types_jaccard,
        "99th pct in types": agreed.p99_within_types_jaccard,
        "kappa": agreed.kappa,
    }


def _ranking(planned: ProfilePlan, runs: Runs) -> Ranking:
    return Ranking.load(fetch(runs[str(planned.pipeline.ranking.key)]) / "ranking.json")


def _percent(fraction: float) -> str:
    return f"{100 * fraction:g} %"


def _save(result: Result, folder: Path) -> list[Path]:
    return [path for drawing in result.drawings for path in drawing.save(folder)]
