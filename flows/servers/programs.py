"""The servers: MLflow with accounts and proxied artifacts, and Prefect, each on own databases."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol
from urllib.request import urlopen

from flows.servers.process import LOOPBACK, Server
from flows.servers.secrets import secret, write_private

ADMIN = "admin"
"""MLflow's administrator, who creates all other accounts."""

_PASSWORD_KNOWN_SECONDS = 60
"""How long MLflow caches a verified password. Without the cache each request hashes it several
times: 2.5 s a request on two busy cores, 0.15 s with it. A changed password leaves the cache of
the only worker at once."""


LEAN = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""Stops MLflow's server from starting eight processes for jobs of its chatbot evaluation."""


class Databases(Protocol):
    """The databases of the servers, as in `flows.servers.postgres.Postgres`."""

    @property
    def environment(self) -> Mapping[str, str]: ...

    def address(self, database: str, driver: str = ...) -> str: ...


def mlflow(folder: Path, port: int, databases: Databases) -> Server:
    """Describe an MLflow server on the databases `mlflow` and `mlflow_accounts`.

    Every account may read everything; `tasks.tracking.accounts` grants permission to write. The
    password is in the environment, which no process list shows. It has one worker: of several,
    uvicorn kills those that need more than 5 s to start, again and again on a busy machine.
    """
    rules = folder / "accounts.ini"
    write_private(
        rules,
        "[mlflow]\n"
        "default_permission = READ\n"
        f"database_uri = {databases.address('mlflow_accounts')}\n"
        f"admin_username = {ADMIN}\n"
        f"auth_cache_ttl_seconds = {_PASSWORD_KNOWN_SECONDS}\n",
    )
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"),
        *("--host", LOOPBACK, "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", databases.address("mlflow")),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    environment = {
        **databases.environment,
        **LEAN,
        "MLFLOW_AUTH_CONFIG_PATH": str(rules),
        "MLFLOW_AUTH_ADMIN_PASSWORD": secret(folder, ADMIN),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secret(folder, "flask"),
    }
    return Server("mlflow", port, command, _answers(port, "health"), environment)


def prefect(name: str, folder: Path, port: int, databases: Databases) -> Server:
    """Describe a Prefect server on the database `prefect_<name>`.

    It stores leases of concurrency limits on disk. In memory, the default, a killed server leaks
    all taken slots (measured: still taken after 130 s; on disk, free after 60 s).
    """
    command = [sys.executable, "-m", "prefect", "server", "start"]
    environment = {
        **databases.environment,
        "PREFECT_HOME": str(folder / f"prefect-{name}"),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": databases.address(f"prefect_{name}", "asyncpg"),
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # Its pages would ask the server on port 4200 otherwise, which may be another team's.
        "PREFECT_SERVER_UI_API_URL": f"http://{LOOPBACK}:{port}/api",
    }
    words = ["--host", LOOPBACK, "--port", str(port)]
    return Server(
        f"prefect-{name}", port, [*command, *words], _answers(port, "api/health"), environment
    )


def _answers(port: int, path: str) -> Callable[[], bool]:
    def answers() -> bool:
        try:
            with urlopen(f"http://{LOOPBACK}:{port}/{path}", timeout=5):
                return True
        except OSError:
            return False

    return answers
