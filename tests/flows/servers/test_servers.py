"""The README's servers: MLflow over HTTP, a Prefect server, a worker that runs a deployment."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from tasks.tracking.accounts import Role
from tests.conftest import ROOT, STEPS, Ila
from tests.helpers.served import PASSWORD, login, ports, post, running, wait_for

pytestmark = [pytest.mark.servers, pytest.mark.slow]

FEW = [
    "search.evidence.scorers=[]",
    "finetune.arms=[{name: all, policy: all}, {name: ila, policy: ila, source: instruct}]",
]
"""Overrides that leave out what says nothing more about servers."""
SOME = 22
"""Steps of `smoke` that are left."""


@pytest.fixture(scope="session")
def deployed(servers, tmp_path_factory):
    """The flow run of a deployment that a worker has run, once for all workers of pytest-xdist."""
    with FileLock(servers.folder / "deployed.lock"):
        if not (runs := deployed_runs(servers)):
            worker = ["prefect", "worker", "start", "--pool", "gpu"]
            log = tmp_path_factory.mktemp("worker") / "log"
            with running(worker, servers.ila.environment, log):
                # Not the pool's ILA_JOBS=1: processes of their own are minutes of imports.
                env = {"ILA_JOBS": "0", "ILA_GPU_LIMIT": "gpu"}
                env["PREFECT_LOGGING_EXTRA_LOGGERS"] = "ila"
                words = ["--param", "profile=smoke", "--param", f"overrides={json.dumps(FEW)}"]
                words += ["--watch", "--job-variable", f"env={json.dumps(env)}"]
                servers.prefect_cli("deployment", "run", "ila-pipeline/pipeline", *words)
            runs = deployed_runs(servers)
            assert [run["state_name"] for run in runs] == ["Completed"], log.read_text()
    return runs[0]


def deployed_runs(servers):
    return servers.ask("flow_runs", flows={"name": {"any_": ["ila-pipeline"]}})


def test_a_deployment_runs_on_a_worker(servers, deployed):
    assert deployed["name"] == "pipeline smoke"
    (inner,) = servers.ask(
        "flow_runs", flow_runs={"parent_flow_run_id": {"any_": [deployed["id"]]}}
    )
    assert task_states(servers, inner) == {"Completed": SOME}
    kinds = {a["key"].split("-")[0]: a["type"] for a in of_run(servers, inner) if a["key"]}
    assert kinds == {"ranking": "table", "agreement": "table", "evaluation": "table"}
    logged = [line["message"] for line in servers.ask("logs", limit=200) if line["name"] == "ila"]
    assert any(message.startswith("terse: rows: ") for message in logged)


BAR = """
from prefect import flow, task
from tasks.run import metrics

class Client:
    def log_batch(self, *_, **__):
        pass

@task
def step():
    journal = metrics.Journal(Client(), "0" * 32, "a long training")
    journal.on_metrics(1, {"progress": 0.5})
    journal.close()

metrics._FLUSH_SECONDS = 0

@flow(name="bar")
def bar():
    step()

bar()
"""
"""A step that has its bar at once: those of `smoke` are over before one is shown."""


def test_a_long_step_has_a_progress_bar_that_is_full_in_the_end(servers):
    environment = servers.ila.environment
    subprocess.run([sys.executable, "-c", BAR], env=environment, cwd=ROOT, check=True)
    bars = servers.ask("artifacts", artifacts={"type": {"any_": ["progress"]}}, limit=200)
    assert [a["data"] for a in bars if a["description"] == "a long training"] == [100.0]


def test_everybody_reuses_its_steps(servers, deployed, finished):
    """The same numbers as on the embedded stores, from any process that sees the same MLflow."""
    words = [word for override in FEW for word in ("--set", override)]
    again = servers.ila.json("run", "smoke", *words)
    assert (again["computed"], again["cached"]) == (0, SOME)
    mine = [
        run
        for run in servers.ask("flow_runs", flows={"name": {"any_": ["ila"]}})
        if run["parent_task_run_id"] is None and run["name"] == "smoke-report"
    ]
    assert [task_states(servers, run) for run in mine] == [{"Cached": SOME}]
    ranking = servers.ila.json("rankings", "show", again["ranking"])
    embedded = finished.json("rankings", "show", again["ranking"])
    assert ranking["layers"] == embedded["layers"]
    assert Path(again["report"]).read_text().startswith("<!DOCTYPE html>")


def test_a_run_tells_what_it_came_to_and_mlflow_leads_back_to_it(servers, deployed, as_member):
    (page,) = [a for a in of_run(servers, deployed) if a["type"] == "markdown"]
    assert f"**{SOME}** computed" in page["data"]
    assert "| held_out_loss ila" in page["data"] and "is better" in page["data"]
    (experiment,) = as_member.search_experiments(filter_string="name = 'ila/demo'")
    (run,) = as_member.search_runs([experiment.experiment_id], "tags.`ila.step` = 'ranking'")
    assert f"/experiments/{experiment.experiment_id}/runs/{run.info.run_id})" in page["data"]
    assert run.data.tags["ila.flow_run"] == "pipeline smoke"
    assert run.data.tags["ila.flow_run_url"].endswith(deployed["id"])
    assert deployed["id"] in run.data.tags["mlflow.note.content"]


def test_a_password_is_in_nothing_that_is_kept_or_listed(servers, deployed, as_member):
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
    assert len(runs) >= SOME
    assert PASSWORD not in json.dumps(asked) + str([run.to_dictionary() for run in runs])
    for process in psutil.process_iter(["cmdline"]):
        assert PASSWORD not in " ".join(process.info["cmdline"] or [])


@pytest.fixture
def as_member(servers, monkeypatch):
    from mlflow import MlflowClient

    for name, value in login(Role.MEMBER).items():
        monkeypatch.setenv(name, value)
    return MlflowClient(tracking_uri=servers.mlflow)


def test_losses_arrive_in_mlflow(servers, deployed, as_member, tmp_path):
    client = as_member
    (experiment,) = client.search_experiments(filter_string="name = 'ila/demo'")
    runs = client.search_runs([experiment.experiment_id], "tags.`ila.step` = 'stage1'")
    assert len(runs) == 3
    for run in runs:
        history = client.get_metric_history(run.info.run_id, "loss")
        assert [m.step for m in history] == list(range(1, len(history) + 1))
        stage1 = client.download_artifacts(run.info.run_id, "payload/stage1.json", str(tmp_path))
        losses = json.loads(Path(stage1).read_bytes())["losses"]
        assert [m.value for m in history] == pytest.approx(losses)
        assert run.info.artifact_uri.startswith("mlflow-artifacts:")


def test_a_server_that_stops_answering_is_one_message(tmp_path):
    ila = Ila(tmp_path / "home", prefect={"PREFECT_API_URL": "http://127.0.0.1:9/api"})
    error = ila("run", "smoke", expect=1)
    assert "Prefect" in error and "PREFECT_API_URL" in error
    assert "Traceback" not in error


def test_the_ui_serves_both_stores_until_it_is_stopped(newcomers, tmp_path):
    log = tmp_path / "ui.log"
    environment = newcomers.environment | {"PYTHONUNBUFFERED": "1"}
    with ports(2) as (prefect, mlflow):
        words = ["--prefect-port", str(prefect), "--mlflow-port", str(mlflow)]
        with running(["flows.cli.app", "ui", *words], environment, log):
            wait_for(f"http://127.0.0.1:{prefect}/api/health")
            wait_for(f"http://127.0.0.1:{mlflow}/health")
            flows = post(f"http://127.0.0.1:{prefect}/api/flow_runs/filter", {})
            assert [run["name"] for run in flows] == ["smoke-report"]
            wanted = {"experiment_ids": ["1"], "max_results": 100}
            found = post(f"http://127.0.0.1:{mlflow}/api/2.0/mlflow/runs/search", wanted)
            assert len(found["runs"]) == STEPS
            busy = newcomers("ui", *words, expect=2)
            assert "ended by itself; the reason is at the end of" in busy
        for port in (prefect, mlflow):
            with socket.socket() as probe:
                assert probe.connect_ex(("127.0.0.1", port)) != 0, "a server outlived `ila ui`"


def of_run(servers, run):
    """Artifacts of a flow run."""
    return servers.ask("artifacts", artifacts={"flow_run_id": {"any_": [run["id"]]}}, limit=200)


def task_states(servers, run):
    steps = servers.ask(
        "task_runs",
        task_runs={"tags": {"all_": ["ila"]}},
        flow_runs={"id": {"any_": [run["id"]]}},
        limit=200,
    )
    return Counter(step["state_name"] for step in steps)
