"""A step's payload: a folder of JSON and safetensors, checked against its digest when read."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from pydantic import BaseModel

from ila_core.config import RuntimeConfig
from ila_core.errors import CheckError
from ila_core.keys import digest_of, file_digest
from tasks.cache.step import Context, Step
from tasks.cache.step_run import StepRun

if TYPE_CHECKING:
    from mlflow import MlflowClient

PAYLOAD = "payload"
MEASUREMENTS = "measurements.json"
"""Seconds, memory, machine: stored with the payload, but no part of its digest, so that the same
result computed twice has one digest."""
MEASURED = {"seconds", "peak_memory_bytes", "peak_allocated_bytes"}
"""Fields that differ from run to run: measurements, so that equal results are equal files."""


def payload_digest(folder: Path) -> str:
    """Compute SHA-256 over a payload's file names and contents, without its measurements."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MEASUREMENTS)
    return digest_of({p.relative_to(folder).as_posix(): file_digest(p) for p in files})


def fetch(run: StepRun, home: Path | None = None, client: MlflowClient | None = None) -> Path:
    """Return the payload of `run` as a local folder; compares its digest with the recorded one.

    Read in place when MLflow keeps its artifacts on this machine's disk; otherwise downloaded once
    into `home/payloads/<digest>`.

    Raises:
        CheckError: what is stored is not what was committed.
        ConnectionError: it lies on a disk that this machine does not see.
    """
    folder = _in_place(run.artifact_uri)
    if folder is None:
        folder = (home or RuntimeConfig.from_env().home) / "payloads" / run.digest
        if folder.exists() and payload_digest(folder) != run.digest:
            shutil.rmtree(folder)  # a copy that was damaged here says nothing about what is stored
        if not folder.exists():
            _download(run, folder, client)
    elif not folder.is_dir():
        raise ConnectionError(
            f"the payload of run {run.run_id} ({run.tags['ila.step']} {run.key}) is not at "
            f"{folder}: written on another machine, or deleted. Share it through an MLflow server "
            f"with --artifacts-destination, or compute it anew: the command that made "
            f"it, with --refresh key:{run.key} --reason lost"
        )
    if payload_digest(folder) != run.digest:
        raise CheckError(
            f"the payload of run {run.run_id} ({run.tags['ila.step']} {run.key}) in {folder} does "
            "not match the digest it was committed with. Compute it anew: the command that "
            f"made it, with --refresh key:{run.key} --reason damaged"
        )
    return folder


def measurements(run: StepRun, client: MlflowClient | None = None) -> dict[str, Any]:
    """Read what was measured while `run` was computed, without the rest of its payload.

    No digest covers it: it is shown, and nothing is made from it.
    """
    folder = _in_place(run.artifact_uri)
    if folder is not None:
        file = folder / MEASUREMENTS
        return dict(json.loads(file.read_bytes())) if file.exists() else {}
    from tasks.tracking.client import open_client

    client = client or open_client(RuntimeConfig.from_env().tracking_uri)
    with tempfile.TemporaryDirectory() as arriving:
        got = client.download_artifacts(run.run_id, f"{PAYLOAD}/{MEASUREMENTS}", arriving)
        return dict(json.loads(Path(got).read_bytes()))


def _in_place(artifact_uri: str) -> Path | None:
    parsed = urlparse(artifact_uri)
    if parsed.scheme in ("", "file") and Path(unquote(parsed.path)).is_absolute():
        return Path(unquote(parsed.path)) / PAYLOAD
    return None


def _download(run: StepRun, folder: Path, client: MlflowClient | None) -> None:
    from tasks.tracking.client import open_client

    arriving = folder.with_name(f"{run.digest}.{os.getpid()}")
    arriving.mkdir(parents=True, exist_ok=True)
    try:
        client = client or open_client(RuntimeConfig.from_env().tracking_uri)
        client.download_artifacts(run.run_id, PAYLOAD, str(arriving))
        (arriving / PAYLOAD).rename(folder)
    except OSError:
        if not folder.exists():  # else another process brought the same content first
            raise
    finally:
        shutil.rmtree(arriving, ignore_errors=True)


def write_result(path: Path, result: BaseModel, context: Context, **more: Any) -> None:
    """`result` and `more` as JSON, less what was measured, which goes to the measurements."""
    context.measurements.update(result.model_dump(mode="json", include=MEASURED))
    write_json(path, result.model_dump(mode="json", exclude=MEASURED) | more)


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON with sorted keys."""
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="ascii")


def read_result(step: Step, payload: Path) -> dict[str, Any]:
    """Read a step's result and measurements, with its names in this run."""
    result, measured = (read_json(payload / x) for x in (f"{step.name}.json", MEASUREMENTS))
    return {**result, **measured, **step.given["names"]}


def read_json(path: Path) -> Any:
    """The value of one JSON file."""
    return json.loads(path.read_bytes())
