"""`ila reproduce`: the tables and figures of the paper, our numbers beside the paper's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pandas as pd

from flows.actions.reproduce_tables import ArmTable
from flows.actions.run import finished
from flows.plan.paper_tables import TABLES
from flows.plan.refresh import Refresh
from flows.results.profile_plan import ProfilePlan, plan_profile
from flows.results.reproduction import Result
from flows.views.run import show_reproduction
from ila_core.config import RuntimeConfig
from ila_core.errors import unknown_name
from ila_core.models.layers import Layer
from ila_core.report.paper import published
from ila_core.search.agreement import Agreement, compare
from tasks.cache.payloads import fetch, read_json
from tasks.cache.step import Step
from tasks.cache.step_run import StepRun

if TYPE_CHECKING:
    from ila_core.report.figures import Drawing

PAPER = "paper (225 layers, chance 0.60)"
"""Header of the paper's columns; the chance level depends on the number of layers."""

Runs = Mapping[str, StepRun]
Column = tuple[str, Mapping[str, float]]


def run_reproduce(
    given: str,
    what: Sequence[str],
    overrides: Sequence[str],
    refresh: Refresh,
    *,
    as_json: bool,
) -> None:
    """Compute what is missing for the tables and figures `what` (empty: all) and show them."""
    known = [*TABLES, *FIGURES]
    for name in what:
        if name not in (*known, "all"):
            raise unknown_name("table or figure", name, [*known, "all"])
    chosen = known if not what or "all" in what else list(dict.fromkeys(what))
    until = "+".join(chosen)
    planned = plan_profile(given, overrides, online=True, until=until)
    runs = finished(planned, until, refresh)
    results = {
        name: FIGURES[name](planned, runs) if name in FIGURES else _arms(name, planned, runs)
        for name in chosen
    }
    folder = RuntimeConfig.from_env().home / "reproduce" / planned.profile.name
    files = {name: _save(result, folder / name) for name, result in results.items()}
    show_reproduction(results, files, as_json=as_json)


def _arms(name: str, planned: ProfilePlan, runs: Runs) -> Result:
    """Build one of the Tables 1 and 3 to 11."""
    table = ArmTable(name, planned, runs)
    tables = {"": table.rows(), "controls": table.controls()}
    if name == "table7":
        tables = {"": table.memory()}
    return Result(table.title, {k: v for k, v in tables.items() if v}, [], table.notes())


def table2(planned: ProfilePlan, runs: Runs) -> Result:
    """Compute the agreement of all pairs of datasets, on scores averaged over search seeds."""
    means = _means(planned, runs)
    rows = []
    for (a, _), (b, _) in combinations(means.items(), 2):
        agreed = _compare(planned, (a, means[a]), (b, means[b]))
        theirs = {
            model: found.get((a, b), found.get((b, a)))
            for model, found in published.TABLE_2.items()
        }
        rows.append(_row(agreed) | {f"{PAPER}, {model}": x for model, x in theirs.items()})
    return Result("Table 2: Jaccard of the kept layers between datasets", {"": rows}, [], [])


def figure1(planned: ProfilePlan, runs: Runs) -> Result:
    """Draw scores by block and layer type, one map per dataset."""
    drawings = [_map(planned, name, scores) for name, scores in _means(planned, runs).items()]
    return Result("Figure 1: scores of every layer, by dataset", {}, drawings, [])


def figure2(planned: ProfilePlan, runs: Runs) -> Result:
    """Draw scores by block and layer type at the milestones of one stage 1."""
    study = planned.pipeline.study
    drawings = [
        _map(planned, f"{study.dataset} at {name}", scores)
        for name, scores in _columns(study.milestones, runs, _percent)
    ]
    return Result(f"Figure 2: scores on {study.dataset} at milestones of stage 1", {}, drawings, [])


def figure3(planned: ProfilePlan, runs: Runs) -> Result:
    """Compute the agreement of gate seeds, as in the paper, and of search seeds."""
    study = planned.pipeline.study
    rows, drawings = [], []
    for kind, of_dataset in (("gate", study.gate_seeds), ("search", study.scores)):
        for dataset, steps in of_dataset.items():
            if len(steps) == 1:
                continue  # a profile with one search seed
            theirs = published.FIGURE_3 if (kind, dataset) == ("gate", published.DATASET) else {}
            columns = _columns(steps, runs, f"{dataset}, {kind} seed {{}}".format)
            found, drawing = _pairs(
                planned, columns, list(steps), theirs, f"{dataset} {kind} seeds"
            )
            rows += found
            drawings.append(drawing)
    return Result("Figure 3: Jaccard between seeds", {"": rows}, drawings, [])


def figure4(planned: ProfilePlan, runs: Runs) -> Result:
    """Compute the agreement of the milestones of one stage 1."""
    study = planned.pipeline.study
    columns = _columns(study.milestones, runs, _percent)
    theirs = published.FIGURE_4 if study.dataset == published.DATASET else {}
    what = f"{study.dataset} milestones"
    rows, drawing = _pairs(planned, columns, list(study.milestones), theirs, what)
    title = f"Figure 4: Jaccard between milestones of stage 1 on {study.dataset}"
    return Result(title, {"": rows}, [drawing], [])


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
    keys: Sequence[object],
    theirs: Mapping[Any, float],
    what: str,
) -> tuple[list[dict[str, object]], Drawing]:
    from ila_core.report.figures import jaccard_matrix

    rows, values = [], {}
    for (key_a, a), (key_b, b) in combinations(zip(keys, columns, strict=True), 2):
        agreed = _compare(planned, a, b)
        values[a[0], b[0]] = agreed.jaccard
        rows.append(_row(agreed) | {f"{PAPER}, Llama 2-7B": theirs.get((key_a, key_b))})
    names = [name for name, _ in columns]
    return rows, jaccard_matrix(names, values, name=what.replace(" ", "-"), title=what)


def _means(planned: ProfilePlan, runs: Runs) -> dict[str, dict[str, float]]:
    """Return each dataset's scores by the paper's recipe, averaged over search seeds."""
    found = {}
    for dataset, steps in planned.pipeline.study.scores.items():
        columns = [scores for _, scores in _columns(steps, runs, str)]
        found[dataset] = {layer: fmean(c[layer] for c in columns) for layer in columns[0]}
    return found


def _map(planned: ProfilePlan, title: str, scores: Mapping[str, float]) -> Drawing:
    from ila_core.report.page import heat_map_of

    layers, keep = planned.pipeline.base.layers, planned.profile.search.keep
    return heat_map_of(layers, scores, keep, title=title)


def _columns(steps: Mapping[Any, Step], runs: Runs, name: Callable[[Any], str]) -> list[Column]:
    found = []
    for key, step in steps.items():
        payload = fetch(runs[str(step.key)])
        found.append((name(key), read_json(payload / f"{step.name}.json")["scores"]))
    return found


def _compare(planned: ProfilePlan, a: Column, b: Column) -> Agreement:
    layers: Sequence[Layer] = planned.pipeline.base.layers
    return compare(layers, planned.profile.search.keep, kind="datasets", a=a, b=b)


def _row(agreed: Agreement) -> dict[str, object]:
    from ila_core.report.tables import agreement_table

    ours = agreement_table([agreed]).drop(columns=["above", "above in types", "shared frozen"])
    return {str(column): value for column, value in ours.to_dict("records")[0].items()}


def _percent(fraction: float) -> str:
    return f"{100 * fraction:g} %"


def _save(result: Result, folder: Path) -> list[Path]:
    from ila_core.report.tables import formatted

    paths = [path for drawing in result.drawings for path in drawing.save(folder)]
    for what, rows in result.tables.items():
        folder.mkdir(parents=True, exist_ok=True)
        frame = pd.DataFrame(rows)
        stem = folder / (what or "table")
        frame.to_csv(stem.with_suffix(".csv"), index=False)
        text = formatted(frame)
        text.to_html(stem.with_suffix(".html"), index=False)
        text.to_markdown(stem.with_suffix(".md"), index=False, disable_numparse=True)
        paths += [stem.with_suffix(suffix) for suffix in (".csv", ".html", ".md")]
    return paths
