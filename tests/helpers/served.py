"""Real servers for tests: MLflow with accounts, a Prefect server, and `ila` set up to use both."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from filelock import FileLock

from flows.servers.pool import count_gpus, deploy
from flows.servers.postgres import Postgres
from flows.servers.process import start, stop_all, wait
from flows.servers.programs import ADMIN, Databases, mlflow, prefect
from flows.servers.secrets import write_private
from tasks.tracking.accounts import Accounts, Role
from tests.conftest import ROOT, Ila

PASSWORD = "planted-Zx81-password"
"""Of every account that the tests make: looked for wherever it must not be."""


class Sqlite:
    """`flows.servers.programs.Databases` as files."""

    environment: Mapping[str, str] = {}

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def address(self, database: str, driver: str = "") -> str:
        dialect = "sqlite+aiosqlite" if driver == "asyncpg" else "sqlite"
        return f"{dialect}:///{self._folder}/{database}.db"


class Servers:
    """Where the servers are, and how one is somebody."""

    def __init__(self, folder: Path, mlflow: int, prefect: int) -> None:
        self.folder = folder
        self.mlflow, self.prefect = f"http://127.0.0.1:{mlflow}", f"http://127.0.0.1:{prefect}"
        self.ila = Ila(folder / "home", prefect={})
        self.ila.environment |= {
            "MLFLOW_TRACKING_URI": self.mlflow,
            "PREFECT_API_URL": f"{self.prefect}/api",
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_LOGGING_TO_API_ENABLED": "true",
            **login(Role.MEMBER),
        }

    def prefect_cli(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *words],
            cwd=ROOT,
            env=self.ila.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ask(self, what: str, **query: Any) -> list[dict[str, Any]]:
        """`POST /api/<what>/filter` of the Prefect server."""
        found: list[dict[str, Any]] = post(f"{self.prefect}/api/{what}/filter", query)
        return found

    def submit(self, deployment: str, **parameters: Any) -> tuple[int, Any]:
        """What the UI's form does: the server's status, and the flow run or the refusal."""
        (found,) = self.ask("deployments", deployments={"name": {"any_": [deployment]}})
        url = f"{self.prefect}/api/deployments/{found['id']}/create_flow_run"
        try:
            return 201, post(url, {"parameters": parameters})
        except HTTPError as error:
            return error.code, error.read().decode()


def shared_servers(note: Path, kind: str) -> Servers:
    """MLflow with an account of each role and Prefect with our deployments, on `kind`: one stack
    for all workers of pytest-xdist, noted in `note`, which `end_servers` ends."""
    with FileLock(f"{note}.lock"):
        if not note.exists():
            # Not below pytest's own folder, closed to the account that PostgreSQL runs as.
            folder = Path(tempfile.mkdtemp(prefix="ila-servers-"))
            note.write_text(json.dumps({"folder": str(folder)}))
            with ports(3) as free:
                note.write_text(json.dumps({"folder": str(folder), "ports": free[:2]}))
                _start(folder, kind, *free)
        told = json.loads(note.read_text())
        assert "ports" in told, f"the servers did not start: see {told['folder']}"
    return Servers(Path(told["folder"]), *told["ports"])


def end_servers(note: Path) -> None:
    """End what `shared_servers` started, if it did."""
    if note.exists():
        folder = Path(json.loads(note.read_text())["folder"])
        stop_all(folder)
        shutil.rmtree(folder)


def _start(folder: Path, kind: str, mlflow_port: int, prefect_port: int, third: int) -> None:
    found = Servers(folder, mlflow_port, prefect_port)
    write_private(folder / "secrets" / ADMIN, PASSWORD)
    databases = _databases(kind, folder, third)
    programs = [
        mlflow(folder, mlflow_port, databases),
        prefect("test", folder, prefect_port, databases),
    ]
    for program in programs:
        start(program, folder)
    for program in programs:
        wait(program, folder)
    _make_accounts(found)
    count_gpus(f"{found.prefect}/api", 1)
    deploy(f"{found.prefect}/api", ROOT / "deployments", "process")


def _databases(kind: str, folder: Path, port: int) -> Databases:
    if kind == "sqlite":
        return Sqlite(folder)
    postgres = Postgres(folder, port)
    start(postgres.server(), folder)
    wait(postgres.server(), folder)
    postgres.create(["mlflow", "mlflow_accounts", "prefect_test"])
    return postgres


def _make_accounts(servers: Servers) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in login(ADMIN).items():
            patch.setenv(name, value)
        accounts = Accounts(servers.mlflow)
        accounts.reserve(["demo", "stories3m"])
        for role in Role:
            assert accounts.add(role, role, PASSWORD)


def login(role: Role | str) -> dict[str, str]:
    return {"MLFLOW_TRACKING_USERNAME": str(role), "MLFLOW_TRACKING_PASSWORD": PASSWORD}


def post(url: str, body: dict[str, Any]) -> Any:
    headers = {"Content-Type": "application/json"}
    with urlopen(Request(url, json.dumps(body).encode(), headers)) as answer:
        return json.loads(answer.read() or "null")


@contextmanager
def ports(count: int) -> Iterator[list[int]]:
    """Ports that nobody else is given while the block lasts: they are bound here.

    The system chooses them as for any socket, so that no two get the same. A server may listen on
    one nevertheless, because both sockets then say SO_REUSEADDR, as each of our servers does.
    """
    with ExitStack() as held:
        found = []
        for _ in range(count):
            holder = held.enter_context(socket.socket())
            holder.bind(("127.0.0.1", 0))
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.append(holder.getsockname()[1])
        yield found


@contextmanager
def running(module: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    """`python -m module ...` in a process group of its own, all of which ends with the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *module], cwd=ROOT, env=environment,
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=20)


def wait_for(url: str) -> None:
    while True:
        try:
            with urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
