"""The README's servers: MLflow over HTTP, a Prefect server, a worker that runs a deployment."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tasks.tracking.accounts import Role
from tests.conftest import STEPS
from tests.helpers.served import PASSWORD, free_port, login, post, running, wait_for

if TYPE_CHECKING:
    from tests.helpers.served import Servers

pytestmark = [pytest.mark.servers, pytest.mark.slow]


def test_a_deployment_runs_on_a_worker_and_everybody_reuses_its_steps(servers, finished, tmp_path):
    worker = ["prefect", "worker", "start", "--pool", "gpu"]
    log = tmp_path / "worker.log"
    with running(worker, servers.ila.environment, log):
        # Not the pool's ILA_JOBS=1: 35 processes of their own are minutes of imports (test_slots).
        env = {"ILA_JOBS": "0", "PREFECT_LOGGING_EXTRA_LOGGERS": "ila", "ILA_GPU_LIMIT": "gpu"}
        words = ("ila-pipeline/pipeline", "--param", "profile=smoke", "--watch")
        servers.prefect_cli("deployment", "run", *words, "--job-variable", f"env={json.dumps(env)}")
    (deployed,) = servers.ask("flow_runs", flows={"name": {"any_": ["ila-pipeline"]}})
    assert deployed["state_name"] == "Completed", log.read_text()
    assert deployed["name"] == "pipeline smoke"
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
    tables = {"ranking": "table", "agreement": "table", "evaluation": "table"}
    assert kinds == {**tables, "run": "markdown"}
    assert any(a["type"] == "progress" for a in servers.ask("artifacts"))
    logged = [line["message"] for line in servers.ask("logs", limit=200) if line["name"] == "ila"]
    assert any(message.startswith("terse: rows {") for message in logged)


def test_a_run_tells_what_it_came_to_and_mlflow_leads_back_to_it(servers, as_member):
    (deployed,) = servers.ask("flow_runs", flows={"name": {"any_": ["ila-pipeline"]}})
    (page,) = servers.ask(
        "artifacts",
        artifacts={"type": {"any_": ["markdown"]}, "flow_run_id": {"any_": [deployed["id"]]}},
    )
    assert f"**{STEPS}** computed" in page["data"]
    assert "| held_out_loss ila" in page["data"] and "is better" in page["data"]
    (experiment,) = as_member.search_experiments(filter_string="name = 'ila/demo'")
    (run,) = as_member.search_runs([experiment.experiment_id], "tags.`ila.step` = 'ranking'")
    assert f"/experiments/{experiment.experiment_id}/runs/{run.info.run_id})" in page["data"]
    assert run.data.tags["ila.flow_run"] == "pipeline smoke"
    assert run.data.tags["ila.flow_run_url"].endswith(deployed["id"])
    assert deployed["id"] in run.data.tags["mlflow.note.content"]


def test_a_password_is_in_nothing_that_is_kept_or_listed(servers, as_member):
    """Params, tags, logs, artifacts, reports, process lists; only where we put it ourselves."""
    ours = {servers.folder / "secrets" / "admin"}
    found = [
        file
        for file in servers.folder.rglob("*")
        if file.is_file() and file not in ours and PASSWORD.encode() in file.read_bytes()
    ]
    assert found == []
    asked = [servers.ask(what) for what in ("flow_runs", "task_runs", "logs", "artifacts")]
    asked.append(servers.ask("deployments"))
    (experiment,) = as_member.search_experiments(filter_string="name = 'ila/demo'")
    runs = as_member.search_runs([experiment.experiment_id], max_results=1000)
    assert len(runs) >= STEPS
    assert PASSWORD not in json.dumps(asked) + str([run.to_dictionary() for run in runs])
    for process in psutil.process_iter(["cmdline"]):
        assert PASSWORD not in " ".join(process.info["cmdline"] or [])


@pytest.fixture
def as_member(servers, monkeypatch):
    from mlflow import MlflowClient

    for name, value in login(Role.MEMBER).items():
        monkeypatch.setenv(name, value)
    return MlflowClient(tracking_uri=servers.mlflow)


def test_losses_arrive_in_mlflow(servers, as_member):
    client = as_member
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
    with running(["flows.cli.app", "ui", *words], environment, log):
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
