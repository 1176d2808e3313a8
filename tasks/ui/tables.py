"""Tables of the search and of evaluations in the Prefect UI, for computed and cached steps."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from ila_core.compare.results import Evaluation
from ila_core.report.benchmark_tables import evaluation_table
from ila_core.search.agreement import Agreement
from ila_core.search.ranking import Ranking
from tasks.cache.payloads import read_json
from tasks.cache.step import Step
from tasks.cache.step_run import StepRun


def publish_tables(
    step: Step, run: StepRun, upstream: dict[str, StepRun], fetch: Callable[[StepRun], Path]
) -> None:
    """Publish the ranking and the agreement for the agreement step, and the result by subject for
    an evaluation."""
    if step.name in ("evaluation", "pairwise"):
        return _publish_evaluation(step, fetch(run))
    if step.name != "agreement":
        return
    from ila_core.report.tables import agreement_table, ranking_table

    ranking = Ranking.load(fetch(upstream["ranking"]) / "ranking.json")
    found = read_json(fetch(run) / "agreement.json")["agreements"]
    agreements = [Agreement.model_validate(agreement) for agreement in found]
    keep = step.given["search"].keep
    _table(f"ranking-{ranking.key}", ranking_table(ranking, keep), "Layers, most important first")
    _table(
        f"agreement-{step.key}",
        agreement_table(agreements),
        "Agreement on the kept layers, beside chance and chance within layer types",
    )


def _publish_evaluation(step: Step, payload: Path) -> None:
    result = Evaluation.load(payload / "evaluation.json")
    limit = step.given["evaluate"].limit
    _table(
        f"evaluation-{step.key}",
        evaluation_table(result, step.given["evaluate"].confidence),
        f"{step.label}: {result.unit}, {result.better} is better"
        + ("" if limit is None else f"; limited to {limit} questions a task, a look"),
    )


def _table(key: str, frame: pd.DataFrame, description: str) -> None:
    from prefect.artifacts import create_table_artifact

    from ila_core.report.tables import formatted

    rows = [[str(value) for value in row] for row in formatted(frame).to_numpy()]
    table = [dict(zip(map(str, frame.columns), row, strict=True)) for row in rows]
    create_table_artifact(table, key=key, description=description)
