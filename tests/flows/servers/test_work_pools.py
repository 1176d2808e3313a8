"""Templates of work pools against the workers' own schemas; compose.yaml and example.env."""

from __future__ import annotations

import asyncio
import json
import pkgutil
import re
from typing import Any
from unittest.mock import MagicMock

import pytest
import yaml
from docker.types import HostConfig
from jsonschema import Draft202012Validator
from prefect.workers.process import ProcessWorker
from prefect_docker.worker import DockerWorker
from prefect_kubernetes.worker import KubernetesWorker

from ila_core.errors import CheckError
from tests.conftest import ROOT

WORKERS = {"process": ProcessWorker, "docker": DockerWorker, "kubernetes": KubernetesWorker}
FOLDER = ROOT / "deployments"


def template(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "work-pools" / f"{kind}.json").read_text())
    return found


def job(kind: str, **variables: Any) -> Any:
    """The job that a worker makes of the template, with a deployment's own variables."""
    worker: Any = WORKERS[kind]
    made = worker.job_configuration.from_template_and_values(
        template(kind),
        variables,
        client=MagicMock(),  # asked for blocks only, of which this template has none
    )
    return asyncio.run(made)


@pytest.mark.parametrize("kind", WORKERS)
def test_a_template_has_every_variable_that_its_worker_knows(kind):
    ours = template(kind)
    Draft202012Validator.check_schema(ours["variables"])
    own = WORKERS[kind].get_default_base_job_template()
    assert own["variables"]["properties"].keys() <= ours["variables"]["properties"].keys()
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(ours["job_configuration"])))
    assert used == ours["variables"]["properties"].keys()


@pytest.mark.parametrize("kind", WORKERS)
def test_steps_count_gpus_and_compute_in_processes_of_their_own(kind):
    env = template(kind)["variables"]["properties"]["env"]["default"]
    assert (env["ILA_GPU_LIMIT"], env["ILA_JOBS"]) == ("gpu", "1")


def test_a_docker_job_gets_the_gpus_and_shared_memory():
    asked = template("docker")["variables"]["properties"]["container_create_kwargs"]["default"]
    host = HostConfig(version="1.44", **asked)
    assert host["DeviceRequests"][0]["Capabilities"] == [["gpu"]]
    assert host["ShmSize"] == 16 * 2**30
    worker = DockerWorker.job_configuration
    assert worker.model_validate({"image": "ila", "container_create_kwargs": asked})


def test_a_kubernetes_job_asks_for_a_gpu_and_names_its_secret():
    made = job("kubernetes", gpus=2, node_selector={"gpu": "h100"}).job_manifest
    pod = made["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert container["envFrom"] == [{"secretRef": {"name": "ila-mlflow"}}]
    assert pod["nodeSelector"] == {"gpu": "h100"}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]


def test_no_template_holds_a_secret():
    for kind in WORKERS:
        for name, value in template(kind)["variables"]["properties"]["env"]["default"].items():
            if re.search("PASSWORD|TOKEN|KEY|SECRET", name):
                assert value.startswith("{{ prefect.blocks.secret.")


def test_compose_pins_its_images_checks_health_and_keeps_secrets_out():
    text = (FOLDER / "compose.yaml").read_text()
    compose = yaml.safe_load(text)
    services = compose["services"]
    assert services.keys() == {"postgres", "mlflow", "prefect", "set-up", "worker"}
    for name, service in services.items():
        assert re.search(r":\d+\.\d+", service["image"]), name
        assert "healthcheck" in service or name == "set-up"
        for other in service.get("depends_on", {}):
            assert other in services
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|TOKEN|SECRET", variable):
                assert re.fullmatch(r"\$\{\w+:[?-].*\}", value), f"{name}: {variable}"
    mounted = {v.split(":")[0] for s in services.values() for v in s.get("volumes", [])} - {"."}
    assert mounted == compose["volumes"].keys()


def test_the_example_file_names_every_variable_that_compose_needs_and_gives_none_a_value():
    needed = set(re.findall(r"\$\{(\w+):\?", (FOLDER / "compose.yaml").read_text()))
    lines = (FOLDER / "example.env").read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert needed <= given.keys()
    assert not any(given.values())


def test_a_worker_of_another_version_refuses_before_it_loads_the_flow():
    (asked,) = yaml.safe_load((FOLDER / "prefect.yaml").read_text())["pull"]
    ((name, given),) = asked.items()
    require = pkgutil.resolve_name(name)
    require(**given)  # of this checkout, that is: the two are one version
    with pytest.raises(CheckError, match=r"of ILA 99\.0 and the worker has .* deploy again from"):
        require(version="99.0")
