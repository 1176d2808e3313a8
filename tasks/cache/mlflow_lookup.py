"""Cached steps through MLflow's client: any tracking URI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tasks.cache.step_run import StepRun
from tasks.tracking.client import open_client

if TYPE_CHECKING:
    from mlflow.entities import Run


class ClientLookup:
    """`tasks.cache.lookup.Lookup` through MLflow's client: any tracking URI."""

    def __init__(self, uri: str, experiment: str) -> None:
        self._client = open_client(uri)
        found = self._client.search_experiments(filter_string=f"name LIKE '{experiment}'")
        self._experiments = [e.experiment_id for e in found]

    def finished(self, *keys: str) -> list[StepRun]:
        return self._of_keys("FINISHED", keys, {"ila.state": "valid"})

    def running(self, *keys: str) -> list[StepRun]:
        return self._of_keys("RUNNING", keys, {})

    def _of_keys(self, status: str, keys: Sequence[str], tags: Mapping[str, str]) -> list[StepRun]:
        # MLflow knows no `tags.x IN (...)`.
        found = [r for k in keys for r in self._search(status, "ASC", {"ila.key": k, **tags})]
        return sorted(found, key=lambda run: (run.start_time, run.run_id))

    def finished_steps(self, name: str) -> list[StepRun]:
        return self._search("FINISHED", "DESC", {"ila.step": name, "ila.state": "valid"})

    def finished_with(self, name: str, param: str, value: str) -> list[StepRun]:
        tags = {"ila.step": name, "ila.state": "valid"}
        also = f" and params.`{param}` = '{value}'"
        return self._search("FINISHED", "ASC", tags, also=also, most=None)

    def _search(
        self,
        status: str,
        direction: str,
        tags: Mapping[str, str],
        *,
        also: str = "",
        most: int | None = 200,
    ) -> list[StepRun]:
        if not self._experiments:
            return []
        wanted = "".join(f" and tags.`{name}` = '{value}'" for name, value in tags.items())
        found: list[StepRun] = []
        page = None
        while page != "":
            got = self._client.search_runs(
                self._experiments,
                f"attributes.status = '{status}'{wanted}{also}",
                order_by=[f"attributes.start_time {direction}"],
                max_results=most or 1000,
                page_token=page,
            )
            found += [step_run(run) for run in got]
            page = "" if most else got.token or ""
        return found


def step_run(run: Run) -> StepRun:
    info = run.info
    return StepRun(
        info.run_id, info.status, info.start_time, info.artifact_uri,
        tags=dict(run.data.tags), params=dict(run.data.params),
        end_time=info.end_time, progress=run.data.metrics.get("progress"),
    )  # fmt: skip
