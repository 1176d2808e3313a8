"""Which steps are cached: reads MLflow's records of step runs.

Two readers answer the same questions. `SqliteLookup` reads the embedded store's tables with the
standard library, because importing MLflow and its SQL store takes 3 s, more than a fully cached
`ila run` may take in all. `ClientLookup` asks any other tracking URI through MLflow's own client.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

from ila_core.config import RuntimeConfig
from ila_core.fingerprint import digest_of
from tasks.step import Step

HEARTBEAT_TTL_SECONDS = 30.0


@dataclass(frozen=True)
class StepRun:
    """One MLflow run of one step."""

    run_id: str
    status: str
    start_time: int
    artifact_uri: str
    tags: dict[str, str]
    params: dict[str, str]
    end_time: int | None = None
    """Milliseconds since 1970, like `start_time`; `None` while it runs."""
    progress: float | None = None
    """The fraction that is done, of a run that says so."""

    @property
    def key(self) -> str:
        return self.tags["ila.key"]

    @property
    def digest(self) -> str:
        """Digest of the payload, set just before the run is FINISHED."""
        return self.tags["ila.digest"]

    @property
    def upstream(self) -> str:
        """`upstream_digest` of the inputs it was made from."""
        return self.tags["ila.upstream"]

    @property
    def alive(self) -> bool:
        """Whether somebody is computing this step now."""
        beat = float(self.tags.get("ila.heartbeat", 0))
        return self.status == "RUNNING" and time.time() - beat < HEARTBEAT_TTL_SECONDS


def upstream_digest(inputs: Mapping[str, StepRun]) -> str:
    """One digest over those of all inputs' payloads: MLflow's tags end at 8,000 characters."""
    return digest_of({name: run.digest for name, run in inputs.items()})


class Lookup(Protocol):
    def finished(self, key: str) -> list[StepRun]:
        """Valid FINISHED runs of `key`, oldest first."""

    def running(self, key: str) -> list[StepRun]:
        """RUNNING runs of `key`, oldest first; `alive` or not."""

    def finished_steps(self, name: str) -> list[StepRun]:
        """Valid FINISHED runs of the step called `name`, newest first, at most 200."""

    def finished_with(self, name: str, param: str, value: str) -> list[StepRun]:
        """All valid FINISHED runs of the step called `name` with that field, oldest first."""


def experiment_name(base_model: str) -> str:
    """One experiment per base model; `%` is MLflow's wildcard for all of them."""
    return f"ila/{base_model}"


def open_lookup(runtime: RuntimeConfig, base_model: str | None = None) -> Lookup:
    """The reader for `runtime.tracking_uri`; `None` reads the experiments of all base models."""
    experiment = experiment_name(base_model or "%")
    if (path := sqlite_path(runtime.tracking_uri)) is not None:
        return SqliteLookup(path, experiment)
    from tasks.tracking import ClientLookup

    return ClientLookup(runtime.tracking_uri, experiment)


def sqlite_path(uri: str) -> Path | None:
    """The file behind an SQLite URI as SQLAlchemy reads it: three slashes are relative, four not.

    >>> sqlite_path("sqlite:////home/me/mlflow.db"), sqlite_path("http://127.0.0.1:5000")
    (PosixPath('/home/me/mlflow.db'), None)
    """
    if not uri.startswith("sqlite:///"):
        return None
    return Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0])).absolute()


class SqliteLookup:
    """Reads the tables `experiments`, `runs`, `tags` and `params` of MLflow's SQLite store.

    Raises:
        ConnectionError: the file is no SQLite database.
    """

    def __init__(self, path: Path, experiment: str) -> None:
        self._path, self._experiment = path, experiment

    def finished(self, key: str) -> list[StepRun]:
        return self._runs("FINISHED", ("ila.key", key), ("ila.state", "valid"))

    def running(self, key: str) -> list[StepRun]:
        return self._runs("RUNNING", ("ila.key", key))

    def finished_steps(self, name: str) -> list[StepRun]:
        found = self._runs("FINISHED", ("ila.step", name), ("ila.state", "valid"))
        return found[::-1][:200]

    def finished_with(self, name: str, param: str, value: str) -> list[StepRun]:
        tags = (("ila.step", name), ("ila.state", "valid"))
        return self._runs("FINISHED", *tags, param=(param, value))

    def _runs(
        self, status: str, *tags: tuple[str, str], param: tuple[str, str] | None = None
    ) -> list[StepRun]:
        if not self._path.exists():
            return []
        joined = [("tags", pair) for pair in tags] + ([("params", param)] if param else [])
        joins = "".join(
            f" JOIN {table} t{i} ON t{i}.run_uuid = r.run_uuid AND t{i}.key = ? AND t{i}.value = ?"
            for i, (table, _) in enumerate(joined)
        )
        query = (
            "SELECT r.run_uuid, r.status, r.start_time, r.artifact_uri, r.end_time FROM runs r"
            f" JOIN experiments e ON e.experiment_id = r.experiment_id AND e.name LIKE ?{joins}"
            " WHERE r.status = ? AND r.lifecycle_stage = 'active'"
            " ORDER BY r.start_time, r.run_uuid"
        )
        values = [self._experiment, *(part for _, pair in joined for part in pair), status]
        try:
            with closing(sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True)) as connection:
                return _read(connection, query, values) if _has_schema(connection) else []
        except sqlite3.DatabaseError as error:
            raise ConnectionError(
                f"{self._path} cannot be read as MLflow's database ({error}): correct "
                "MLFLOW_TRACKING_URI or ILA_HOME, or move the file away, and a new one is made"
            ) from error


def _read(connection: sqlite3.Connection, query: str, values: list[str]) -> list[StepRun]:
    return [
        StepRun(
            run_id=row[0],
            status=row[1],
            start_time=row[2],
            artifact_uri=row[3],
            tags=_pairs(connection, "tags", row[0]),
            params=_pairs(connection, "params", row[0]),
            end_time=row[4],
            progress=_progress(connection, row[0]),
        )
        for row in connection.execute(query, values).fetchall()
    ]


def _has_schema(connection: sqlite3.Connection) -> bool:
    """Whether MLflow has finished making its tables; another process may be at it now."""
    query = "SELECT count(*) FROM sqlite_master WHERE name IN ('experiments', 'runs', 'tags')"
    return bool(connection.execute(query).fetchone()[0] == 3)


def _pairs(connection: sqlite3.Connection, table: str, run_id: str) -> dict[str, str]:
    query = f"SELECT key, value FROM {table} WHERE run_uuid = ?"
    return dict(connection.execute(query, [run_id]).fetchall())


def _progress(connection: sqlite3.Connection, run_id: str) -> float | None:
    query = "SELECT value FROM latest_metrics WHERE run_uuid = ? AND key = 'progress'"
    found = connection.execute(query, [run_id]).fetchone()
    return None if found is None else float(found[0])


def hits(steps: Iterable[Step], lookup: Lookup) -> dict[str, StepRun]:
    """Key to cached run, for every step of `steps` (inputs first) that is cached.

    A hit is the oldest valid run whose recorded input digests are those of its inputs' hits: when
    an input is refreshed and comes out different, what was made from the old one is no hit.
    """
    found: dict[str, StepRun] = {}
    for step in steps:
        if step.key is None or any(up.key not in found for up in step.inputs.values()):
            continue
        expected = upstream_digest({name: found[str(up.key)] for name, up in step.inputs.items()})
        run = next((r for r in lookup.finished(step.key) if r.upstream == expected), None)
        if run is not None:
            found[step.key] = run
    return found
