"""The README's servers: MLflow over HTTP, a Prefect server, a worker that runs a deployment."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from conftest import ROOT, STEPS, Ila

pytestmark = [pytest.mark.servers, pytest.mark.slow]


class Servers:
    """An MLflow and a Prefect server, and `ila` set up to use both."""

    def __init__(self, folder: Path, mlflow: str, prefect: str) -> None:
        self.mlflow, self.prefect = mlflow, prefect
        self.ila = Ila(folder / "home")
        self.ila.environment |= {
            "MLFLOW_TRACKING_URI": mlflow,
            "PREFECT_API_URL": f"{prefect}/api",
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_LOGGING_TO_API_ENABLED": "true",
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


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("servers")
    mlflow_port, prefect_port = free_port(), free_port()
    mlflow = [
        *("mlflow", "server", "--port", str(mlflow_port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    prefect = ["prefect", "server", "start", "--port", str(prefect_port)]
    found = Servers(folder, f"http://127.0.0.1:{mlflow_port}", f"http://127.0.0.1:{prefect_port}")
    environment = found.ila.environment | {"PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    del environment["PREFECT_API_URL"], environment["MLFLOW_TRACKING_URI"]
    with ExitStack() as stack:
        for command in (mlflow, prefect):
            stack.enter_context(running(command, environment, folder / f"{command[0]}.log"))
        wait_for(f"{found.mlflow}/health", folder / "mlflow.log")
        wait_for(f"{found.prefect}/api/health", folder / "prefect.log")
        yield found


def test_a_deployment_runs_on_a_worker_and_everybody_reuses_its_steps(servers, finished, tmp_path):
    servers.prefect_cli("work-pool", "create", "ila", "--type", "process")
    servers.prefect_cli("deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
    worker = ["prefect", "worker", "start", "--pool", "ila"]
    log = tmp_path / "worker.log"
    with running(worker, servers.ila.environment, log):
        words = ("ila-deployed/pipeline", "--param", "profile=smoke", "--watch")
        servers.prefect_cli("deployment", "run", *words)
    (deployed,) = servers.ask("flow_runs", flows={"name": {"any_": ["ila-deployed"]}})
    assert deployed["state_name"] == "Completed", log.read_text()
    assert task_states(servers) == {"Completed": STEPS}

    # The same numbers as on the embedded stores, from any process that sees the same MLflow.
    again = servers.ila.json("run", "smoke")
    assert (again["computed"], again["cached"]) == (0, STEPS)
    assert task_states(servers) == {"Completed": STEPS, "Cached": STEPS}
    ranking = servers.ila.json("rankings", "show", again["ranking"])
    embedded = finished.json("rankings", "show", again["ranking"])
    assert ranking["layers"] == embedded["layers"]
    assert Path(again["report"]).read_text().startswith("<!DOCTYPE html>")

    kinds = {a["key"].split("-")[0]: a["type"] for a in servers.ask("artifacts") if a["key"]}
    assert kinds == {"ranking": "table", "agreement": "table", "evaluation": "table"}
    assert any(a["type"] == "progress" for a in servers.ask("artifacts"))
    logged = [line["message"] for line in servers.ask("logs", limit=200) if line["name"] == "ila"]
    assert any(message.startswith("terse: rows {") for message in logged)


def test_losses_arrive_in_mlflow(servers):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=servers.mlflow)
    (experiment,) = client.search_experiments(filter_string="name = 'ila/demo'")
    runs = client.search_runs([experiment.experiment_id], "tags.`ila.step` = 'stage1'")
    assert len(runs) == 3
    for run in runs:
        history = client.get_metric_history(run.info.run_id, "loss")
        assert [m.step for m in history] == list(range(1, len(history) + 1))
        assert history[-1].value < history[0].value
        assert run.info.artifact_uri.startswith("mlflow-artifacts:")


def test_a_server_that_stops_answering_is_one_message(ila):
    error = ila("run", "smoke", expect=1, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert "Prefect" in error and "PREFECT_API_URL" in error
    assert "Traceback" not in error


def test_the_ui_serves_both_stores_until_it_is_stopped(finished, tmp_path):
    ports = {"prefect": free_port(), "mlflow": free_port()}
    words = [word for name, port in ports.items() for word in (f"--{name}-port", str(port))]
    log = tmp_path / "ui.log"
    environment = finished.environment | {"PYTHONUNBUFFERED": "1"}
    with running(["flows.cli", "ui", *words], environment, log):
        wait_for(f"http://127.0.0.1:{ports['prefect']}/api/health", log)
        wait_for(f"http://127.0.0.1:{ports['mlflow']}/health", log)
        flows = post(f"http://127.0.0.1:{ports['prefect']}/api/flow_runs/filter", {})
        assert [run["name"] for run in flows] == ["smoke-report"]
        wanted = {"experiment_ids": ["1"], "max_results": 100}
        found = post(f"http://127.0.0.1:{ports['mlflow']}/api/2.0/mlflow/runs/search", wanted)
        assert len(found["runs"]) == STEPS
        busy = finished("ui", *words, expect=2)
        assert "ended by itself; the reason is at the end of" in busy
    for port in ports.values():
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, "a server outlived `ila ui`"


def task_states(servers: Servers) -> dict[str, int]:
    steps = servers.ask("task_runs", task_runs={"tags": {"all_": ["ila"]}}, limit=200)
    names = [run["state_name"] for run in steps]
    return {name: names.count(name) for name in set(names)}


def post(url: str, body: dict[str, Any]) -> Any:
    headers = {"Content-Type": "application/json"}
    with urlopen(Request(url, json.dumps(body).encode(), headers), timeout=30) as answer:
        return json.load(answer)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


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


def wait_for(url: str, log: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"{url} does not answer:\n{log.read_text()[-3000:]}")
