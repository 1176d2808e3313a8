"""Setup of a Prefect server: the concurrency limit for GPUs, a work pool, and deployments."""

import json
import os
import subprocess
import sys
from pathlib import Path

import typer

from flows.servers.process import inherited
from ila_core.errors import CheckError, UserError

GPU = "gpu"
"""Name of the work pool, and of the limit of which a step that computes takes one slot."""

QUEUES = {"interactive": 1, "scheduled": 2}
"""The pool's queues with their priorities: an interactive run precedes a scheduled one."""


def run_deploy(folder: Path, *, kind: str, gpus: int) -> None:
    """Set up the Prefect server that the environment names, and print what was done."""
    api = os.environ.get("PREFECT_API_URL")
    if not api:
        raise UserError("set PREFECT_API_URL to the Prefect server, http://127.0.0.1:4200/api say")
    count_gpus(api, gpus)
    deploy(api, folder, kind)
    typer.echo(f"{api}: limit `gpu` of {gpus}, {kind} pool `gpu`, {folder / 'prefect.yaml'}")


def count_gpus(api: str, gpus: int) -> None:
    """Create or update a Prefect server's limit of concurrent GPU steps."""
    from prefect.client.orchestration import SyncPrefectClient

    with SyncPrefectClient(api) as client:
        client.upsert_global_concurrency_limit_by_name(GPU, gpus)


def deploy(api: str, folder: Path, kind: str) -> None:
    """Create or update the pool and its queues, then run `prefect deploy --all`.

    Args:
        folder: contains `prefect.yaml` and, for each kind of worker, `work-pools/<kind>.json`.
        kind: process, docker or kubernetes.

    Raises:
        UserError: when a file is missing.
        CheckError: when Prefect rejects the deployment.
    """
    file, template = folder / "prefect.yaml", folder / "work-pools" / f"{kind}.json"
    for needed in (file, template):
        if not needed.is_file():
            raise UserError(f"{needed} is not there; `deployments/` of the repository has both")
    _make_pool(api, kind, json.loads(template.read_text()))
    words = ["--no-prompt", "deploy", "--all", "--prefect-file", str(file.resolve())]
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *words], env=inherited() | {"PREFECT_API_URL": api},
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise CheckError(f"`prefect deploy` failed:\n{(done.stdout + done.stderr)[-2000:]}")


def _make_pool(api: str, kind: str, template: dict[str, object]) -> None:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    with SyncPrefectClient(api) as client:
        pool = WorkPoolCreate(name=GPU, type=kind, base_job_template=template)
        client.create_work_pool(pool, overwrite=True)
        for name, priority in QUEUES.items():
            try:
                client.create_work_queue(name, priority=priority, work_pool_name=GPU)
            except ObjectAlreadyExists:
                queue = client.read_work_queue_by_name(name, work_pool_name=GPU)
                client.update_work_queue(queue.id, priority=priority)
