"""MLflow or Prefect goes away in the middle: what was computed is never computed again."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flows.servers.process import start, stop_all, wait
from flows.servers.programs import ADMIN, mlflow, prefect
from flows.servers.secrets import write_private
from tasks.cache.payloads import MEASUREMENTS
from tests.conftest import Ila, kill, wait_until
from tests.helpers.forked import HANG
from tests.helpers.served import PASSWORD, Sqlite, free_port, login

pytestmark = [pytest.mark.servers, pytest.mark.slow]


class Store:
    """An MLflow server that is stopped and started, and `ila` that uses it."""

    def __init__(self, folder: Path, home: Path) -> None:
        write_private(folder / "secrets" / ADMIN, PASSWORD)
        self.folder = folder
        self._server = mlflow(folder, free_port(), Sqlite(folder))
        self.ila = Ila(home)
        address = f"http://127.0.0.1:{self._server.port}"
        self.ila.environment |= {"MLFLOW_TRACKING_URI": address, **login(ADMIN)}

    def start(self) -> None:
        start(self._server, self.folder)
        wait(self._server, self.folder)

    def stop(self) -> None:
        stop_all(self.folder)

    def steps(self, status: str) -> dict[str, str]:
        """Run ids by label of the steps whose run has that status: read behind the server."""
        query = """
            SELECT t.value, r.run_uuid FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid
            WHERE r.status = ? AND t.key = 'ila.label'
        """
        address = f"{(self.folder / 'mlflow.db').as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=60)) as connection:
            return dict(connection.execute(query, [status]).fetchall())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = Store(tmp_path / "server", tmp_path / "home")
    found.start()
    yield found
    found.stop()


def failed(ila: Ila, stop: Callable[[], None], when: Callable[[], bool]) -> str:
    """What `ila search` says when a server is stopped at that moment."""
    process = ila.start("search", "smoke", ILA_CHECKPOINT_SECONDS="0")
    try:
        wait_until(when, process)
        process.send_signal(signal.SIGSTOP)
        stop()
        process.send_signal(signal.SIGCONT)
        _, said = process.communicate(timeout=HANG)
    finally:
        kill(process)
    assert process.returncode == 1 and "Traceback" not in said
    return said


def test_a_server_that_goes_away_costs_nothing_that_was_computed(store):
    label = "stage1 terse seed 0"
    checkpoints = store.ila.home / "checkpoints"
    said = failed(
        store.ila, store.stop, lambda: any(checkpoints.glob("*/checkpoint-*/complete.json"))
    )
    assert f"What {label} computed is kept in" in said
    (kept,) = (store.ila.home / "uncommitted").iterdir()
    first = json.loads((kept / MEASUREMENTS).read_text())

    store.start()
    said = failed(store.ila, store.stop, lambda: label in store.steps("FINISHED"))
    assert "MLflow at http://127.0.0.1" in said

    store.start()
    before = store.steps("FINISHED")
    answer = store.ila.json("search", "smoke")
    assert answer["cached"] == len(before) and answer["computed"] > 0
    assert before.items() <= store.steps("FINISHED").items()
    (taken,) = store.folder.glob(f"artifacts/*/{before[label]}/artifacts/payload/{MEASUREMENTS}")
    assert json.loads(taken.read_text()) == first
    # The server may have gone right after it took a result, which is then known to be its.
    store.ila("gc", "--older-than", "0", "--remove")
    assert not any((store.ila.home / "uncommitted").iterdir())


def test_prefects_server_goes_away_and_the_step_under_way_is_committed(tmp_path):
    folder = tmp_path / "server"
    folder.mkdir()
    server = prefect("tests", folder, free_port(), Sqlite(folder))
    start(server, folder)
    try:
        wait(server, folder)
        ila = Ila(tmp_path / "home", f"http://127.0.0.1:{server.port}/api")
        # Its client tries for a minute whatever it has to say; 503 is SQLite's word for a moment.
        ila.environment["PREFECT_CLIENT_MAX_RETRIES"] = "2"
        said = failed(
            ila,
            lambda: stop_all(folder),
            lambda: any((ila.home / "checkpoints").glob("*/checkpoint-*/complete.json")),
        )
    finally:
        stop_all(folder)
    assert "Prefect failed" in said and "run the same command again" in said
    assert not any((ila.home / "uncommitted").iterdir())
    planned = {x["step"]: x["state"] for x in ila.json("plan", "smoke")["steps"]}
    assert planned["stage1 terse seed 0"] == "HIT"
