"""MLflow's client: how it is reached, what its errors mean, and its records of step runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from filelock import FileLock

from ila_core.errors import first_line
from tasks.cache.lookup import StepRun, sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def open_client(uri: str) -> MlflowClient:
    """MLflow's client for `uri`, which gives up within seconds when nobody answers.

    Raises:
        ConnectionError: the tracking server cannot be reached.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # the default means minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # It tells how it makes its tables, and prints a traceback of each error that it also raises.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    from mlflow import MlflowClient

    try:
        with translate_mlflow_errors(uri), _alone(uri):
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_experiments(max_results=1)
    except ImportError as error:
        raise ConnectionError(
            f"MLflow at {shown(uri)} needs the package {error.name}, which is not installed"
        ) from error
    return client


@contextmanager
def translate_mlflow_errors(uri: str) -> Iterator[None]:
    """What MLflow refuses or cannot do inside the block becomes one message.

    Raises:
        ConnectionError: it cannot be reached, or answered with an error.
        PermissionError: it answered, and does not take this account or does not let it do that.
    """
    from mlflow.exceptions import MlflowException
    from requests import RequestException  # payloads are moved without MLflow's own errors

    try:
        yield
    except (MlflowException, RequestException) as error:
        said = first_line(error)
        if refusal := _refusal(said):
            raise PermissionError(f"MLflow at {shown(uri)} {refusal}") from error
        raise ConnectionError(
            f"MLflow at {shown(uri)} cannot be used: {said[:300]}\n"
            "Start it, or correct MLFLOW_TRACKING_URI; unset, ILA keeps its own store in ILA_HOME."
        ) from error


def _refusal(said: str) -> str | None:
    """What to do where MLflow answered, but not to this account."""
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if "error code 401" in said and user:
        return (
            f"does not take the password of account {user!r}: correct MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD (no account by that name looks the same)"
        )
    if "error code 401" in said:
        return (
            "asks who you are: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to an "
            "account, which its administrator makes with `ila servers account`"
        )
    if "error code 403" in said:
        return (
            f"does not let account {user!r} do that ({said[:200]}). Computing needs role member, "
            "publishing role publisher: docs/TEAMS.md; `ila doctor` says what yours may"
        )
    return None


def shown(uri: str) -> str:
    """The address without a user's name and password."""
    scheme, mark, rest = uri.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Nobody else on this machine makes the tables of an SQLite store at the same time."""
    path = sqlite_path(uri)
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        yield


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
        return sorted(found, key=lambda run: run.start_time)

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
