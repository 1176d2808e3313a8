"""MLflow or Prefect goes away in the middle: what was computed is never computed again."""

from __future__ import annotations

import json
import shutil
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
from tests.helpers.served import PASSWORD, Sqlite, login
from tests.helpers.small import LABELS, Small

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.never_rerun]


class Server:
    """An MLflow server that is stopped and started."""

    def __init__(self, folder: Path, port: int) -> None:
        write_private(folder / "secrets" / ADMIN, PASSWORD)
        self.folder = folder
        self._server = mlflow(folder, port, Sqlite(folder))
        self.environment = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}", **login(ADMIN)}

    def start(self) -> None:
        start(self._server, self.folder)
        wait(self._server, self.folder)

    def stop(self) -> None:
        stop_all(self.folder)

    def finished(self) -> dict[str, str]:
        """Run ids of finished steps by label: read behind the server."""
        query = """
            SELECT t.value, r.run_uuid FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid
            WHERE r.status = 'FINISHED' AND t.key = 'ila.label'
        """
        address = f"{(self.folder / 'mlflow.db').as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=60)) as connection:
            return dict(connection.execute(query).fetchall())


@pytest.fixture
def away(
    tmp_path: Path, port: int, small: Small, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    """An MLflow server that the small pipeline uses."""
    found = Server(tmp_path / "server", port)
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    found.start()
    yield found
    found.stop()


def test_a_server_that_goes_away_costs_nothing_that_was_computed(away, small):
    def at(label: str) -> None:
        small.while_computing = lambda step: away.stop() if step.label == label else None

    at("left")
    with pytest.raises(ConnectionError, match=r"What left computed is kept in .*uncommitted"):
        small.run()
    (kept,) = (small.home / "uncommitted").iterdir()
    first = json.loads((kept / MEASUREMENTS).read_text())

    away.start()
    at("last")  # goes right after it took what came before
    with pytest.raises(ConnectionError, match="What last computed is kept in"):
        small.run()
    before = away.finished()
    assert sorted(before) == ["first", "left", "right"]

    away.start()
    small.while_computing = lambda step: None
    runs = small.run()
    assert sorted(small.computed) == sorted(LABELS), "each once"
    assert (
        before.items() <= away.finished().items() == {x: r.run_id for x, r in runs.items()}.items()
    )
    (taken,) = away.folder.glob(f"artifacts/*/{before['left']}/artifacts/payload/{MEASUREMENTS}")
    assert json.loads(taken.read_text()) == first
    # The server may have gone right after it took a result, which then is known to be its.
    shutil.copytree(taken.parent, small.home / "uncommitted" / "left")
    ila = Ila(small.home)
    ila("gc", "--older-than", "0", "--remove", **away.environment)
    assert not any((small.home / "uncommitted").iterdir())


def failed(ila: Ila, stop: Callable[[], None], when: Callable[[], bool]) -> str:
    """What `ila search` says when a server is stopped at that moment."""
    process = ila.start("search", "smoke", ILA_CHECKPOINT_SECONDS="0")
    try:
        wait_until(when, process)
        process.send_signal(signal.SIGSTOP)
        stop()
        process.send_signal(signal.SIGCONT)
        _, said = process.communicate()
    finally:
        kill(process)
    assert process.returncode == 1 and "Traceback" not in said
    return said


def test_prefects_server_goes_away_and_the_step_under_way_is_committed(port, tmp_path):
    folder = tmp_path / "server"
    folder.mkdir()
    server = prefect("tests", folder, port, Sqlite(folder))
    start(server, folder)
    try:
        wait(server, folder)
        address = f"http://127.0.0.1:{server.port}/api"
        ila = Ila(tmp_path / "home", prefect={"PREFECT_API_URL": address})
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
