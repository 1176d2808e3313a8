"""What the store keeps that can never be a hit again, and how many bytes it holds.

A step's run is kept for as long as it is what a run of its key would find: valid, and made from
inputs that are themselves found. So what was refreshed, damaged or never finished goes, and so does
what was made from it; a result that can still be a hit never does, nor does anything that a
published ranking was made from.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ila_core.config import RuntimeConfig
from tasks.cache.mlflow_lookup import step_run
from tasks.cache.payloads import PAYLOAD, payload_digest
from tasks.cache.step_run import StepRun, upstream_digest
from tasks.tracking.client import all_pages, experiment_name, open_client, translate_mlflow_errors
from tasks.tracking.registry import Registry

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Garbage:
    """One run of the store, or one folder of this machine."""

    what: str
    """Label of its step, or what the folder was for."""
    where: str
    """The run's id, or the folder."""
    why: str
    days: float
    """Since it ended, or was last written to."""
    size: int
    """Bytes."""
    run: StepRun | None = None


def find_garbage(runtime: RuntimeConfig, *, older_than_days: float) -> list[Garbage]:
    """Find everything that can go, largest first.

    Args:
        runtime: which store, and which ILA_HOME.
        older_than_days: what ended since then is left alone: somebody may want to look at it.
    """
    client = open_client(runtime.tracking_uri)
    with translate_mlflow_errors(runtime.tracking_uri):
        runs = _step_runs(client)
    published = {version.run_id for version in Registry(runtime).versions()}
    now = time.time()
    unneeded = [
        (run, why, (now - (run.end_time or run.start_time) / 1000) / 86400)
        for run, why in _unneeded(runs, published)
    ]
    with translate_mlflow_errors(runtime.tracking_uri):
        found = [
            Garbage(_label(run), run.run_id, why, days, _stored_bytes(client, run), run)
            for run, why, days in unneeded
            if days >= older_than_days
        ]
    gone = {run.run_id for run, _, _ in unneeded}
    kept = [run for run in runs if run.run_id not in gone]
    found += [f for f in _folders(runtime, kept) if f.days >= older_than_days]
    return sorted(found, key=lambda f: -f.size)


def remove(garbage: Sequence[Garbage], runtime: RuntimeConfig) -> Iterator[Garbage]:
    """Remove each item and report it. A run's record stays in MLflow's bin, without its payload."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    client = open_client(runtime.tracking_uri)
    for thing in garbage:
        if thing.run is None:
            shutil.rmtree(thing.where)
        else:
            with translate_mlflow_errors(runtime.tracking_uri):
                stored = get_artifact_repository(
                    thing.run.artifact_uri, tracking_uri=runtime.tracking_uri
                )
                if thing.size:
                    stored.delete_artifacts(PAYLOAD)
                client.set_tag(thing.run.run_id, "ila.removed", thing.why)
                client.delete_run(thing.run.run_id)
        yield thing


def _unneeded(runs: Sequence[StepRun], published: Collection[str]) -> Iterator[tuple[StepRun, str]]:
    """Find the runs that can never be hits again, and why."""
    by_key: dict[str, list[StepRun]] = {}
    for run in sorted(runs, key=lambda r: (r.start_time, r.run_id)):
        by_key.setdefault(run.key, []).append(run)
    hits = _hits(by_key)
    wanted = {run.run_id for run in hits.values()} | _ancestry(published, runs, by_key)
    for run in runs:
        if run.run_id in wanted or run.alive:
            continue
        if run.status == "RUNNING":
            yield run, "its process ended without a word"
        elif run.status != "FINISHED":
            yield run, run.status.lower()
        elif (state := run.tags["ila.state"]) != "valid":
            why = run.tags.get("ila.reason")
            yield run, f"{state}: {why}" if why else state
        elif run.key in hits and hits[run.key].upstream == run.upstream:
            yield run, "computed twice"
        else:
            yield run, "made from a result that has been replaced"


def _hits(by_key: dict[str, list[StepRun]]) -> dict[str, StepRun]:
    """Key to the run that answers to it, as `tasks.cache.lookup.hits` finds it from a plan."""
    found: dict[str, StepRun | None] = {}

    def hit(key: str) -> StepRun | None:
        if key not in found:
            found[key] = None  # no step is its own input; a forged record must not loop
            for run in by_key.get(key, []):
                if run.status != "FINISHED" or run.tags["ila.state"] != "valid":
                    continue
                inputs = {name: hit(key) for name, key in input_keys(run).items()}
                present = {name: r for name, r in inputs.items() if r is not None}
                if len(present) == len(inputs) and upstream_digest(present) == run.upstream:
                    found[key] = run
                    break
        return found[key]

    return {key: run for key in by_key if (run := hit(key)) is not None}


def input_keys(run: StepRun) -> dict[str, str]:
    """The keys of a run's inputs by the name it reads them under."""
    return {n.removeprefix("input."): k for n, k in run.params.items() if n.startswith("input.")}


def _ancestry(
    published: Collection[str], runs: Sequence[StepRun], by_key: dict[str, list[StepRun]]
) -> set[str]:
    """Ids of the published runs and of every finished run under a key that led to them."""
    todo = [run for run in runs if run.run_id in published]
    seen: set[str] = set()
    while todo:
        run = todo.pop()
        if run.run_id not in seen:
            seen.add(run.run_id)
            for key in input_keys(run).values():
                todo += [r for r in by_key.get(key, []) if r.status == "FINISHED"]
    return seen


def _step_runs(client: MlflowClient) -> list[StepRun]:
    everywhere = f"name LIKE '{experiment_name('%')}'"
    experiments = [e.experiment_id for e in client.search_experiments(filter_string=everywhere)]
    wanted = partial(client.search_runs, experiments, "tags.`ila.key` LIKE '%'")
    return [step_run(run) for run in all_pages(wanted)] if experiments else []


def _stored_bytes(client: MlflowClient, run: StepRun, path: str = PAYLOAD) -> int:
    total = 0
    for entry in client.list_artifacts(run.run_id, path):
        total += _stored_bytes(client, run, entry.path) if entry.is_dir else entry.file_size
    return total


def _folders(runtime: RuntimeConfig, kept: Sequence[StepRun]) -> Iterator[Garbage]:
    """Find this machine's folders that can go: copies nobody needs, and what dead work left."""
    digests = {run.tags.get("ila.digest") for run in kept if run.status == "FINISHED"}
    for folder in (runtime.home / "payloads").glob("*"):
        if folder.name not in digests:
            yield _of_folder(folder, "downloaded copy", "nothing that is kept has this content")
    for folder in (runtime.home / "uncommitted").glob("*"):
        if payload_digest(folder) in digests:
            yield _of_folder(folder, "result kept for MLflow", "MLflow has it since")
    for folder in (runtime.home / "work").glob("*"):
        yield _of_folder(folder, "unfinished work", "left by a process that was killed")


def _of_folder(folder: Path, what: str, why: str) -> Garbage:
    size, last = 0, folder.stat().st_mtime
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):  # somebody is at work in it
            size, last = size + file.stat().st_size, max(last, file.stat().st_mtime)
    return Garbage(what, str(folder), why, (time.time() - last) / 86400, size)


def _label(run: StepRun) -> str:
    return run.tags.get("ila.label", run.tags["ila.step"])
