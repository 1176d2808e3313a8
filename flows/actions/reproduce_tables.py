"""Tables 1 and 3 to 11 as rows: our results, their random controls and the paper's figures."""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from flows.plan.arms import Arms
from flows.plan.paper_tables import TABLES, finetuning_on, stand_in
from flows.results.profile_plan import ProfilePlan
from ila_core.compare.results import Evaluation
from ila_core.config import ArmConfig, FinetuneConfig
from ila_core.data.prepared import longest
from ila_core.report.comparison import ArmResult, Difference, compare_arms
from ila_core.report.paper import published_tables
from ila_core.selection.selection import Selection
from ila_core.train.forecast import Forecast
from tasks.cache.payloads import MEASUREMENTS, fetch, read_json, read_result
from tasks.cache.step import Step
from tasks.cache.step_run import StepRun
from tasks.steps.finetune.selection import load

Row = dict[str, Any]
Rows = list[Row]

_COLUMNS = {
    "mmlu": "MMLU",
    "hellaswag": "HellaSwag",
    "vicuna": "Vicuna",
    "mt_bench": "MT-Bench",
}
"""Benchmark to its column in the paper's tables (`paper_tables.COLUMNS`)."""


class ArmTable:
    """Table `name` of the paper (`TABLES`) as rows, from the finished runs of its plan by key."""

    def __init__(self, name: str, planned: ProfilePlan, runs: Mapping[str, StepRun]) -> None:
        self._name, self._planned = name, planned
        self._table = TABLES[name]
        self._arms = planned.pipeline.tables([name])
        self._runs = runs
        self._fetched: dict[str, Path] = {}
        self._compared = {name: self._compare(name) for name in self._table.datasets}

    @property
    def title(self) -> str:
        steps = {x.steps for found in self._compared.values() for x in found.values() if x.steps}
        seeds = len(self._planned.profile.finetune.seeds)
        return f"{self._table.title} ({_span(steps)} steps, {seeds} seeds)"

    def notes(self) -> list[str]:
        """Say whether the reference arms overfit, and what is odd about the paper's table."""
        lines = [self._table.note] if self._table.note else []
        if not self._planned.profile.finetune.watch:
            return [*lines, "no losses before the end (finetune.watch): overfitting is unknown"]
        for dataset in self._table.datasets:
            arms = self._compared[dataset]
            where = stand_in(self._planned.profile, dataset)
            compared = {x.versus.against for x in arms.values() if x.versus}
            for name in sorted({self._table.against, *compared}):
                best = f"best step {arms[name].best_step} of {arms[name].steps}"
                lines.append(
                    f"{name} overfits on {where} ({best}): a gain from freezing may be "
                    "regularisation alone; compare at the best step and with random layers"
                    if arms[name].overfits
                    else f"{name} does not overfit on {where} ({best})"
                )
        return lines

    def rows(self) -> Rows:
        """Return one row per row of the paper, our results beside the paper's."""
        rows = []
        for dataset in self._table.datasets:
            selections = self._selections(dataset)
            for label, arm in self._table.rows.items():
                found = self._compared[dataset][arm]
                rows.append(
                    self._names(dataset, label)
                    | _ours(found, selections[arm])
                    | self._benchmarks(dataset, arm)
                    | self._theirs(dataset, label)
                )
        return rows

    def controls(self) -> Rows:
        """Return each arm's differences to its random arms, at the last and the best step."""
        rows = []
        for dataset in self._table.datasets:
            selections = self._selections(dataset)
            for label, arm in self._table.rows.items():
                for control in self._compared[dataset][arm].controls:
                    details = selections[control.against].details
                    rows.append(
                        self._names(dataset, label)
                        | {"equal": control.match, "parameters apart": details.get("difference")}
                        | _apart(control, control.at_best)
                        | {"verdict": control.verdict, "verdict at best": control.at_best.verdict}
                    )
        return rows

    def _names(self, dataset: str, label: str) -> Row:
        return {"dataset": stand_in(self._planned.profile, dataset), "arm": label}

    def _benchmarks(self, dataset: str, arm: str) -> Row:
        """Return the values of the paper's benchmarks, averaged over seeds."""
        found: dict[str, list[Evaluation]] = {}
        for step in self._arms[dataset].evaluations(arm):
            name = step.given["benchmark"].name
            if name in _COLUMNS:
                result = Evaluation.load(self._payload(step) / "evaluation.json")
                found.setdefault(name, []).append(result)
        columns = {}
        for name, results in found.items():
            scale = 100 if results[0].unit == "accuracy" else 1
            column = _COLUMNS[name] + _apart_from_the_papers(results[0].comparable)
            columns[column] = scale * fmean(r.value for r in results)
        return columns

    def _theirs(self, dataset: str, label: str) -> Row:
        return {
            f"paper, {model}: {column}": figure
            for (model, of), rows in published_tables.arms(self._name).items()
            if of == dataset and label in rows
            for column, figure in zip(published_tables.COLUMNS, rows[label], strict=True)
            if figure is not None
        }

    def memory(self) -> Rows:
        """Return Table 7: measured and forecast memory, and the forecast at batch 2 x 1,024."""
        (dataset,) = self._table.datasets
        profile, base = self._planned.profile, self._planned.pipeline.base
        finetuning = finetuning_on(profile, dataset, set(self._table.rows.values()))
        by_name = {arm.name: arm for arm in finetuning.arms}
        selections = self._selections(dataset)
        data = self._planned.pipeline.data[finetuning.dataset]
        length = longest(self._payload(data), "train")
        rows: Rows = []
        for label, name in self._table.rows.items():
            arm, train = by_name[name], selections[name].train
            method, how = finetuning.method_of(arm), finetuning.settings_of(arm)

            def forecast(batch_size: int, micro_batch: int, length: int) -> int:
                shape = {"batch_size": batch_size, "micro_batch": micro_batch, "length": length}
                return Forecast.of(base.config, base.layers, method, how, **shape).memory(train)  # noqa: B023

            tuned = self._arms[dataset].tuned[name].values()
            spent = [read_json(self._payload(s) / MEASUREMENTS) for s in tuned]
            peaks = [c["peak_allocated_bytes"] for c in spent]
            found = None if None in peaks else fmean(peaks)  # a device that counts nothing
            here = spent[0]["runtime"]["micro_batch"]
            own = forecast(finetuning.optimizer.batch_size, here, length)
            rows.append(
                {
                    "arm": label,
                    "measured": found,
                    "forecast": own,
                    "forecast error": own / found - 1 if found else None,
                    "forecast, 2 x 1,024": forecast(2, 2, 1024),
                    "paper, MiB": published_tables.MEMORY_MIB[label],
                }
            )
        for row in rows:
            whole = rows[0] if row["arm"].startswith("LoRA") else rows[2]
            for column in ("measured", "forecast, 2 x 1,024", "paper, MiB"):
                known = row[column] is not None and whole[column] is not None
                row[f"{column}: of 100 %"] = row[column] / whole[column] if known else None
        return rows

    def _selections(self, dataset: str) -> dict[str, Selection]:
        arms = self._arms[dataset]
        return {n: load(self._payload(step)) for n, step in arms.selections.items()}

    def _payload(self, step: Step) -> Path:
        """Fetch a finished step's payload, once, because `fetch` reads all of it."""
        key = str(step.key)
        if key not in self._fetched:
            self._fetched[key] = fetch(self._runs[key])
        return self._fetched[key]

    def _compare(self, dataset: str) -> dict[str, ArmResult]:
        """Compare each arm with all layers under its method, and those with the table's arm."""
        arms: Arms = self._arms[dataset]
        profile = self._planned.profile
        table = self._table
        finetuning = finetuning_on(profile, dataset, {*table.rows.values(), table.against})
        tuned = [step for of_seed in arms.tuned.values() for step in of_seed.values()]
        evaluations, finetunes = (
            [read_result(step, self._payload(step)) for step in steps]
            for steps in (arms.evaluated, tuned)
        )
        found: dict[str, ArmResult] = {}
        for against, group in _groups(finetuning, table.against).items():
            compared = compare_arms(
                evaluations,
                finetunes,
                finetune=finetuning.model_copy(update={"arms": tuple(group)}),
                evaluate=profile.evaluate.model_copy(update={"against": against}),
            )
            for result in compared:
                if result.arm != against or against == table.against:
                    found[result.arm] = result
        return found


def _apart_from_the_papers(comparable: Mapping[str, Any]) -> str:
    """Return a suffix that names what differs from the paper: judge, prompts or a limit."""
    said = []
    if judge := comparable.get("judge"):
        as_published = judge["model"].startswith("gpt-4") and not judge["local"]
        if not as_published or comparable["prompts"]["wording"] != "fastchat":
            said.append("local judge" if judge["local"] else f"judge {judge['model']}")
            said.append(f"{comparable['prompts']['wording']} prompts")
    if comparable.get("limit") is not None:
        said.append(f"{comparable['limit']} questions a task")
    return f" ({', '.join(said)})" if said else ""


def _groups(finetuning: FinetuneConfig, against: str) -> dict[str, list[ArmConfig]]:
    """Group the arms by the arm that they are compared with, which is the first of its group."""
    by_name = {arm.name: arm for arm in finetuning.arms}
    whole = {finetuning.method_of(a): a.name for a in finetuning.arms if a.policy == "all"}
    groups = {against: [by_name[against]]}
    for arm in finetuning.arms:
        if arm.name == against:
            continue
        other = against if arm.policy == "all" else whole.get(finetuning.method_of(arm), against)
        groups.setdefault(other, [by_name[other]]).append(arm)
    return groups


def _ours(found: ArmResult, selection: Selection) -> Row:
    spread = max(found.losses.values()) - min(found.losses.values())
    return {
        "layers": f"{len(selection.train)} of {len(selection.train) + len(selection.frozen)}",
        "trainable": found.trainable_parameters,
        "held-out loss": found.loss,
        "seeds differ by": spread if len(found.losses) > 1 else None,
        "against": found.versus.against if found.versus else None,
        **_apart(found.versus, found.versus_at_best),
        "best step": f"{found.best_step} of {found.steps}",
    }


def _apart(end: Difference | None, best: Difference | None) -> Row:
    return {
        f"{field}{at}": getattr(found, field, None)
        for found, at in ((end, ""), (best, " at best"))
        for field in ("difference", "low", "high")
    }


def _span(steps: set[int]) -> str:
    return f"{min(steps)}" if len(steps) == 1 else f"{min(steps)} to {max(steps)}"
