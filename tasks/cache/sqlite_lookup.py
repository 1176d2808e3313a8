"""Cached steps by the tables of the embedded SQLite store, with the standard library.

Importing MLflow and its SQL store takes 3 s, more than a fully cached `ila run` may take in all.
"""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ila_core.locks import is_lock_error, locked_database
from tasks.cache.step_run import StepRun

_BUSY_SECONDS = 5.0
"""How long another process may write before its lock counts as one that never ends."""
_VALID = ("tags", "ila.state", ("valid",))


class SqliteLookup:
    """Reads the tables `experiments`, `runs`, `tags` and `params` of MLflow's SQLite store.

    Raises:
        ConnectionError: the file is no SQLite database.
        LockError: it cannot be locked.
    """

    def __init__(self, path: Path, experiment: str) -> None:
        self._path, self._experiment = path, experiment

    def finished(self, *keys: str) -> list[StepRun]:
        return self._runs("FINISHED", ("tags", "ila.key", keys), _VALID)

    def running(self, *keys: str) -> list[StepRun]:
        return self._runs("RUNNING", ("tags", "ila.key", keys))

    def finished_steps(self, name: str) -> list[StepRun]:
        return self._runs("FINISHED", ("tags", "ila.step", [name]), _VALID, newest=200)

    def finished_with(self, name: str, param: str, value: str) -> list[StepRun]:
        named = ("tags", "ila.step", [name])
        return self._runs("FINISHED", ("params", param, [value]), named, _VALID)

    def _runs(
        self,
        status: str,
        first: tuple[str, str, Sequence[str]],
        *others: tuple[str, str, Sequence[str]],
        newest: int | None = None,
    ) -> list[StepRun]:
        """Runs with rows like these (table, name, any of the values), oldest first; or the
        `newest`, newest first.

        What `first` asks for is looked for first. Left to itself, SQLite begins with all runs of
        the experiment, and asks 50 ms of processor time for each key with 10,000 of them.
        """
        if not self._path.exists() or not first[2]:
            return []
        joins = "".join(
            f" CROSS JOIN {table} t{i} ON t{i}.run_uuid = r.run_uuid AND {_is_one(f't{i}', values)}"
            for i, (table, _, values) in enumerate(others)
        )
        order = "DESC" if newest else "ASC"
        query = (
            "SELECT r.run_uuid, r.status, r.start_time, r.artifact_uri, r.end_time"
            f" FROM {first[0]} f CROSS JOIN runs r ON r.run_uuid = f.run_uuid{joins}"
            " CROSS JOIN experiments e ON e.experiment_id = r.experiment_id AND e.name LIKE ?"
            f" WHERE {_is_one('f', first[2])} AND r.status = ? AND r.lifecycle_stage = 'active'"
            f" ORDER BY r.start_time {order}, r.run_uuid {order} LIMIT {newest or -1}"
        )
        of_rows = [[name, *values] for _, name, values in (*others, first)]
        joined = [part for row in of_rows[:-1] for part in row]
        values = [*joined, self._experiment, *of_rows[-1], status]
        try:
            with closing(self._connect()) as connection:
                return _read(connection, query, values) if _has_schema(connection) else []
        except sqlite3.DatabaseError as error:
            if is_lock_error(error):
                raise locked_database(self._path, error) from error
            raise ConnectionError(
                f"{self._path} cannot be read as MLflow's database ({error}): correct "
                "MLFLOW_TRACKING_URI or ILA_HOME, or move the file away, and a new one is made"
            ) from error

    def _connect(self) -> sqlite3.Connection:
        uri = f"{self._path.as_uri()}?mode=ro"
        return sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS)


def _is_one(table: str, values: Sequence[str]) -> str:
    return f"{table}.key = ? AND {table}.value IN ({', '.join('?' * len(values))})"


def _read(connection: sqlite3.Connection, query: str, values: list[str]) -> list[StepRun]:
    # Pages are shared with the system's cache; SQLite's own begins empty with every connection.
    connection.execute(f"PRAGMA mmap_size = {2**30}")
    rows = connection.execute(query, values).fetchall()
    ids = [row[0] for row in rows]
    tags, params, metrics = (
        _pairs(connection, table, ids) for table in ("tags", "params", "latest_metrics")
    )
    return [
        StepRun(
            run_id=row[0],
            status=row[1],
            start_time=row[2],
            artifact_uri=row[3],
            tags=tags[row[0]],
            params=params[row[0]],
            end_time=row[4],
            progress=metrics[row[0]].get("progress"),
        )
        for row in rows
    ]


def _has_schema(connection: sqlite3.Connection) -> bool:
    """Whether MLflow has finished making its tables; another process may be at it now."""
    query = "SELECT count(*) FROM sqlite_master WHERE name IN ('experiments', 'runs', 'tags')"
    return bool(connection.execute(query).fetchone()[0] == 3)


def _pairs(
    connection: sqlite3.Connection, table: str, run_ids: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Name to value of each run, in one query: one for each takes 0.1 s for 200 runs."""
    found: dict[str, dict[str, Any]] = {run_id: {} for run_id in run_ids}
    several = ", ".join("?" * len(run_ids))
    query = f"SELECT run_uuid, key, value FROM {table} WHERE run_uuid IN ({several})"
    for run_id, name, value in connection.execute(query, run_ids):
        found[run_id][name] = value
    return found
