"""`ila ui`: both web UIs over the embedded stores, as child processes."""

import os
import signal
import subprocess
import sys
import time

import typer

from flows.servers.programs import LEAN
from ila_core.config import RuntimeConfig
from ila_core.errors import UserError

_LOOPBACK = "127.0.0.1"


def serve(*, prefect_port: int, mlflow_port: int) -> None:
    """Start the Prefect server and MLflow, print their addresses, stop both on Ctrl-C or SIGTERM.

    Raises:
        UserError: when one of them ends by itself, for example because its port is in use.
    """
    runtime = RuntimeConfig.from_env()
    runtime.home.mkdir(parents=True, exist_ok=True)
    environment = os.environ | LEAN | {"PREFECT_HOME": str(runtime.home / "prefect")}
    environment.pop("PREFECT_API_URL", None)
    commands = {
        "prefect": ["prefect", "server", "start", "--host", _LOOPBACK, "--port", str(prefect_port)],
        "mlflow": ["mlflow", "ui", "--host", _LOOPBACK, "--port", str(mlflow_port),
                   "--backend-store-uri", runtime.tracking_uri],
    }  # fmt: skip
    logs = {name: runtime.home / f"{name}-server.log" for name in commands}
    servers = {}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` leaves it ignored
    try:
        for name, command in commands.items():
            with logs[name].open("ab") as log:
                servers[name] = subprocess.Popen(
                    [sys.executable, "-m", *command], env=environment, stdout=log, stderr=log,
                    start_new_session=True,
                )  # fmt: skip
        typer.echo(f"Prefect  http://{_LOOPBACK}:{prefect_port}   (log: {logs['prefect']})")
        typer.echo(f"MLflow   http://{_LOOPBACK}:{mlflow_port}   (log: {logs['mlflow']})")
        typer.echo(
            "Both need some 10 seconds to answer. In MLflow choose 'Model training' and an "
            "experiment, ila/<base model>: each run is a step. Ctrl-C stops both."
        )
        while all(server.poll() is None for server in servers.values()):
            time.sleep(0.5)
        ended = next(name for name, server in servers.items() if server.poll() is not None)
        raise UserError(f"{ended} ended by itself; the reason is at the end of {logs[ended]}")
    except KeyboardInterrupt:
        typer.echo("stopping")
    finally:
        for server in servers.values():
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGTERM)
        for server in servers.values():
            server.wait(timeout=30)
