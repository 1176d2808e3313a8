"""What all tests share: the command line in a process of its own, and an ILA_HOME to run in."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.helpers import forked

# One thread each: several processes on two cores otherwise spend their time waiting (docs/LOG.md).
os.environ["OMP_NUM_THREADS"] = "1"

ROOT = Path(__file__).parent.parent
PREFECT = "prefect-server"
STEPS = 35
"""Of a whole `ila run smoke`."""


class Ila:
    """Runs `ila` in processes of its own, against one ILA_HOME.

    Args:
        home: ILA_HOME.
        prefect: the API of the server that its flows run on, and those of its copies; empty: each
            command starts its own.
    """

    def __init__(self, home: Path, prefect: str = "") -> None:
        self.home, self.prefect = home, prefect
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ILA_", "PREFECT_"))}
        inherited.pop("MLFLOW_TRACKING_URI", None)
        self.environment = {
            **inherited,
            "ILA_HOME": str(home),
            "HF_HUB_OFFLINE": "1",
            "PREFECT_LOGGING_TO_API_ENABLED": "false",
            **({"PREFECT_API_URL": prefect} if prefect else {}),
        }

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """The running process, in a group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli.app", *arguments],
            cwd=ROOT,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # A shell that runs the tests in the background has SIGINT ignored, which is inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def ended(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder) / "out", Path(folder) / "err"
            code = forked.run(
                "flows.cli.app", arguments, ROOT, {**self.environment, **environment}, out, err
            )
            return code, out.read_text(), err.read_text()

    def __call__(self, *arguments: str, expect: int = 0, **environment: str) -> str:
        """Standard output, or standard error where a failure is expected."""
        code, out, err = self.ended(*arguments, **environment)
        assert code == expect, f"exit {code}\n{out}\n{err}"
        return out if expect == 0 else err

    def json(self, *arguments: str, **environment: str) -> Any:
        """What a command with `--json` answers."""
        return json.loads(self(*arguments, "--json", **environment))

    def copied(self, home: Path) -> Ila:
        """A home of its own with everything that is in this one, artifact addresses included."""
        shutil.copytree(self.home, home, ignore=shutil.ignore_patterns("prefect"))
        with closing(sqlite3.connect(home / "mlflow.db")) as connection, connection:
            for table, column in (("runs", "artifact_uri"), ("experiments", "artifact_location")):
                connection.execute(
                    f"UPDATE {table} SET {column} = replace({column}, ?, ?)",
                    [str(self.home), str(home)],
                )
        return Ila(home, self.prefect)


def kill(process: subprocess.Popen[str]) -> None:
    """`kill -9` of the process and all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)  # closes its pipes


def wait_until(reached: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    """Poll until `reached()`, or fail when the process ends before."""
    while process.poll() is None:
        if reached():
            return
        time.sleep(0.02)
    raise AssertionError(f"ended before: {process.communicate()}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--servers-on", choices=["sqlite", "postgresql"], default="sqlite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The browser's tests last: other tests of the same servers count what has been computed."""
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real inputs; skips the test where it is absent."""
    folder = ROOT / os.environ.get("ILA_REAL_DATA", "../shared/data")
    if not folder.is_dir():
        pytest.skip(f"needs the real inputs (ILA_REAL_DATA); {folder.resolve()} is not there")
    return folder.resolve()


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> str:
    """The API of a Prefect server for all tests: one that a command starts costs it 30 s here."""
    from flows.servers import process, programs
    from tests.helpers.served import Sqlite, free_port

    folder = _shared(tmp_path_factory, worker_id) / PREFECT
    folder.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        note = folder / "port"
        if not note.exists():
            note.write_text(str(free_port()))
        server = programs.prefect("tests", folder, int(note.read_text()), Sqlite(folder))
        process.start(server, folder)
        process.wait(server, folder)
    return f"http://127.0.0.1:{server.port}/api"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the server of all tests, once all workers of pytest-xdist have ended."""
    from flows.servers.process import stop_all

    if not hasattr(session.config, "workerinput"):
        stop_all(session.config._tmp_path_factory.getbasetemp() / PREFECT)  # type: ignore[attr-defined]


def _shared(factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of all workers of pytest-xdist."""
    folder = factory.getbasetemp()
    return folder if worker_id == "master" else folder.parent


@pytest.fixture
def ila(tmp_path: Path, prefect_api: str) -> Ila:
    """`ila` with an empty ILA_HOME."""
    return Ila(tmp_path / "home", prefect_api)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str, prefect_api: str) -> Ila:
    """`ila` with an ILA_HOME in which `smoke` has run to its end. Do not change what is in it."""
    folder = _shared(tmp_path_factory, worker_id)
    done = folder / "finished" / "done"
    with FileLock(folder / "finished.lock"):
        ila = Ila(done.parent / "home")  # a newcomer's, with a Prefect server of its own
        ila.prefect = prefect_api
        if not done.exists():
            ila("run", "smoke")
            done.touch()
    return ila


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Iterator[Any]:
    """MLflow with accounts and a Prefect server (tests/helpers/served.py), for all tests."""
    from tests.helpers.served import serving  # beside the tests that use it

    with serving(request.config.getoption("--servers-on")) as found:
        yield found


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], Any]]:
    """Starts a `JudgeServer` (tests/helpers/judge_server.py); closed after the test."""
    from tests.helpers.judge_server import JudgeServer  # beside the tests that use it

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    servers: list[JudgeServer] = []

    def start(script: Any) -> JudgeServer:
        servers.append(JudgeServer(script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
