"""What all tests share: the command line, and an ILA_HOME to run in."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from tests.helpers.flaky import name_flaky, rerun_once

# One thread each: several processes on two cores otherwise spend their time waiting (docs/LOG.md).
os.environ["OMP_NUM_THREADS"] = "1"

ROOT = Path(__file__).parent.parent
PREFECT, STACK = "prefect-server", "servers.json"
WITHOUT_PREFECT = {"ILA_PREFECT": "off"}
STEPS = 35
"""Of a whole `ila run smoke`."""


class Ila:
    """Runs `ila` against one ILA_HOME.

    In this process, by typer's own runner, where Prefect is left out: MLflow's and torch's imports
    alone take seconds. In a process of its own where it is not: Prefect reads its settings once.

    Args:
        home: ILA_HOME.
        prefect: the environment by which its commands find Prefect: by default they leave it out,
            `{}` is what a newcomer has.
    """

    def __init__(self, home: Path, prefect: Mapping[str, str] = WITHOUT_PREFECT) -> None:
        self.home = home
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ILA_", "PREFECT_"))}
        inherited.pop("MLFLOW_TRACKING_URI", None)
        self.environment = {
            **inherited,
            "ILA_HOME": str(home),
            "HF_HUB_OFFLINE": "1",
            "PREFECT_LOGGING_TO_API_ENABLED": "false",
            **prefect,
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
        told = {**self.environment, **environment}
        if told.get("ILA_PREFECT") == "off":
            return _in_this_process(arguments, told)
        return self.in_a_process(*arguments, **environment)

    def in_a_process(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        """The same of a process of its own, as a person starts it."""
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli.app", *arguments], cwd=ROOT,
            env={**self.environment, **environment}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def __call__(self, *arguments: str, expect: int = 0, **environment: str) -> str:
        """Standard output, or standard error where a failure is expected."""
        code, out, err = self.ended(*arguments, **environment)
        assert code == expect, f"exit {code}\n{out}\n{err}"
        return out if expect == 0 else err

    def json(self, *arguments: str, **environment: str) -> Any:
        """What a command with `--json` answers."""
        return json.loads(self(*arguments, "--json", **environment))

    def copied(self, home: Path, prefect: Mapping[str, str] = WITHOUT_PREFECT) -> Ila:
        """A home of its own with everything that is in this one, artifact addresses included."""
        shutil.copytree(self.home, home, ignore=shutil.ignore_patterns("prefect"))
        with closing(sqlite3.connect(home / "mlflow.db")) as connection, connection:
            for table, column in (("runs", "artifact_uri"), ("experiments", "artifact_location")):
                connection.execute(
                    f"UPDATE {table} SET {column} = replace({column}, ?, ?)",
                    [str(self.home), str(home)],
                )
        return Ila(home, prefect)

    def digests(self) -> dict[str, str]:
        """Payload digest of every step that is a hit, by its key; not of the report, with its
        seconds."""
        query = """
            SELECT k.value, d.value FROM runs r
            JOIN tags k ON k.run_uuid = r.run_uuid AND k.key = 'ila.key'
            JOIN tags d ON d.run_uuid = r.run_uuid AND d.key = 'ila.digest'
            JOIN tags s ON s.run_uuid = r.run_uuid AND s.key = 'ila.step' AND s.value != 'report'
            JOIN tags v ON v.run_uuid = r.run_uuid AND v.key = 'ila.state' AND v.value = 'valid'
            WHERE r.status = 'FINISHED'
        """
        with closing(sqlite3.connect(self.home / "mlflow.db")) as connection:
            rows = connection.execute(query).fetchall()
        assert len(rows) == len(dict(rows)), "a step was computed twice"
        return dict(rows)


def _in_this_process(
    arguments: Sequence[str], environment: Mapping[str, str]
) -> tuple[int, str, str]:
    """What `ila` does in a process of its own, less the traceback of a bug of ours."""
    from flows.cli.app import app
    from flows.exit_codes import explain

    with pytest.MonkeyPatch.context() as patch:
        for name in {*os.environ} - {*environment}:
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.chdir(ROOT)
        result = CliRunner().invoke(app, list(arguments))
        if not isinstance(result.exception, Exception):  # SystemExit is none
            return result.exit_code, result.stdout, result.stderr
        explained = explain(result.exception)
        if explained is None:
            raise result.exception
        code, message = explained
        return code, result.stdout, f"{result.stderr}ila: {message}\n"


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
    rerun_once(items)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    name_flaky(terminalreporter)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real inputs; skips the test where it is absent."""
    folder = ROOT / os.environ.get("ILA_REAL_DATA", "../shared/data")
    if not folder.is_dir():
        pytest.skip(f"needs the real inputs (ILA_REAL_DATA); {folder.resolve()} is not there")
    return folder.resolve()


@pytest.fixture(scope="session")
def prefect_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Where the Prefect server that all tests share keeps what it knows."""
    return _shared(tmp_path_factory, worker_id) / PREFECT


@pytest.fixture(scope="session")
def prefect(prefect_folder: Path) -> dict[str, str]:
    """The environment of commands on that server."""
    from flows.servers import process, programs
    from tests.helpers.served import Sqlite, ports  # beside the tests that use it

    folder, note = prefect_folder, prefect_folder / "port"
    with FileLock(f"{folder}.lock"):
        if not note.exists():
            folder.mkdir()
            with ports(1) as (port,):
                server = programs.prefect("tests", folder, port, Sqlite(folder))
                process.start(server, folder)
                process.wait(server, folder)
            note.write_text(str(port))
    return {"PREFECT_API_URL": f"http://127.0.0.1:{note.read_text()}/api"}


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the servers of all tests, once all workers of pytest-xdist have ended."""
    from flows.servers.process import stop_all

    if not hasattr(session.config, "workerinput"):
        folder = session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        stop_all(folder / PREFECT)
        if (folder / STACK).exists():
            from tests.helpers.served import end_servers

            end_servers(folder / STACK)


def _shared(factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of all workers of pytest-xdist."""
    folder = factory.getbasetemp()
    return folder if worker_id == "master" else folder.parent


@pytest.fixture
def ila(tmp_path: Path) -> Ila:
    """`ila` with an empty ILA_HOME."""
    return Ila(tmp_path / "home")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Ila:
    """`ila` with an ILA_HOME in which `smoke` has run to its end. Do not change what is in it."""
    of_all_phases = os.environ.get("ILA_TESTS_SHARED")  # make test-all
    folder = Path(of_all_phases) if of_all_phases else _shared(tmp_path_factory, worker_id)
    return _with_a_run(Ila(folder / "finished"))


@pytest.fixture(scope="session")
def newcomers(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Ila:
    """The same by the default way, a Prefect flow on a server that the command starts."""
    return _with_a_run(Ila(_shared(tmp_path_factory, worker_id) / "newcomers", prefect={}))


def _with_a_run(ila: Ila) -> Ila:
    """Run `smoke` in its home unless another worker of pytest-xdist has."""
    done = ila.home.with_suffix(".done")
    with FileLock(ila.home.with_suffix(".lock")):
        if not done.exists():
            ila("run", "smoke")
            done.touch()
    return ila


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ILA_HOME with an empty store, to copy."""
    from tests.helpers.small import empty_home  # beside the tests that use it

    return empty_home(tmp_path_factory.mktemp("empty"))


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Any:
    """A pipeline of millisecond steps (tests/helpers/small.py) in a home of its own."""
    from tests.helpers.small import Small

    return Small(tmp_path / "small", monkeypatch, empty_store)


@pytest.fixture(scope="session")
def servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Any:
    """MLflow with accounts and a Prefect server (tests/helpers/served.py), for all tests."""
    from tests.helpers.served import shared_servers  # beside the tests that use it

    kind = request.config.getoption("--servers-on")
    return shared_servers(_shared(tmp_path_factory, worker_id) / STACK, kind)


@pytest.fixture
def port() -> Iterator[int]:
    """A port for a server of the test's own, which nobody else is given meanwhile."""
    from tests.helpers.served import ports

    with ports(1) as (found,):
        yield found


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], Any]]:
    """Starts a `JudgeServer` (tests/helpers/judge_server.py); closed after the test.

    The client waits a millisecond between two tries, unless the server says how long.
    """
    from tests.helpers.judge_server import JudgeServer  # beside the tests that use it

    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 1e-3)
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
