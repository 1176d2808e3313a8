"""One Prefect task per step: look it up, or compute it and commit it."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State
from prefect.futures import PrefectFuture
from prefect.states import Completed

from ila_core.config import RuntimeConfig
from ila_core.errors import CheckError, UserError, first_line
from ila_core.reproducibility import provenance
from tasks.artifacts import publish_tables
from tasks.journal import Journal
from tasks.lookup import StepRun, upstream_digest
from tasks.payloads import CIRCUMSTANCE
from tasks.step import Context, Step
from tasks.store import Store
from tasks.tracking import answering

log = logging.getLogger("ila")

interruption = threading.Event()
"""Set when the run is to end: the step under way ends at its next metric, and no other begins.

Python interrupts its main thread only, and steps run in another: without this, Ctrl-C or a worker's
SIGTERM would wait for hours of training.
"""


class Interrupted(Exception):
    """The run was told to end; the same command goes on from the last checkpoint."""


def submit(
    step: Step, store: Store, runtime: RuntimeConfig, inputs: dict[str, Any], *, refresh: bool
) -> PrefectFuture[Any]:
    """Hand `step` to the flow's task runner.

    Args:
        step: what to look up or compute.
        store: where to.
        runtime: where and how it is computed.
        inputs: the futures of its inputs' runs.
        refresh: compute it although it is cached; what was cached is superseded by the result.
    """
    named = cached_step.with_options(name=step.name, task_run_name=step.title, tags={"ila"})
    return named.submit(Handle(step, store, runtime, refresh), **{"upstream": inputs})


class Handle:
    """Wraps what Prefect must pass on untouched: a plain object, into which it does not look."""

    def __init__(
        self, step: Step, store: Store, runtime: RuntimeConfig, refresh: bool, in_flow: bool = True
    ) -> None:
        self.step, self.store, self.runtime, self.refresh = step, store, runtime, refresh
        self.in_flow = in_flow


def run_here(steps: Sequence[Step], store: Store, runtime: RuntimeConfig) -> None:
    """Look up or compute `steps` (inputs first) one by one, in this process and in no flow."""
    runs: dict[str, StepRun] = {}
    for step in steps:
        upstream = {name: runs[str(up.key)] for name, up in step.inputs.items()}
        handle = Handle(step, store, runtime, refresh=False, in_flow=False)
        runs[str(step.key)], _ = _looked_up(handle, upstream)


@task(cache_policy=NO_CACHE, persist_result=False)
def cached_step(handle: Handle, upstream: dict[str, StepRun]) -> StepRun | State[StepRun]:
    """The step's finished MLflow run. MLflow being down fails the task before any work."""
    run, mine = _looked_up(handle, upstream)
    with answering(handle.runtime.tracking_uri):
        publish_tables(handle.step, run, upstream, handle.store.fetch)
    return run if mine else Completed(name="Cached", data=run)


def _looked_up(handle: Handle, upstream: dict[str, StepRun]) -> tuple[StepRun, bool]:
    """The finished run, and whether it was computed just now."""
    step, store = handle.step, handle.store
    stop_if_interrupted()

    def waiting(run: StepRun) -> None:
        stop_if_interrupted()
        log.info("%s: waiting for run %s (%s)", step.label, run.run_id, run.tags["ila.owner"])

    with answering(handle.runtime.tracking_uri):
        old = store.finished(step) if handle.refresh else []
        run, mine = store.claim(step, upstream_digest(upstream), waiting, instead_of=old)
        if mine:
            run = _computed(handle, run, upstream)
            store.supersede(old)
        else:
            log.info("%-32s cached    %s", step.label, run.run_id)
    return run, mine


def _computed(handle: Handle, run: StepRun, upstream: dict[str, StepRun]) -> StepRun:
    step, store = handle.step, handle.store
    start = time.perf_counter()
    try:
        with store.beating(run):
            done = _compute(handle, run, {name: store.fetch(r) for name, r in upstream.items()})
    except Exception as error:
        log.error("%-32s failed    %s", step.label, first_line(error))
        if isinstance(error, UserError | CheckError):  # which of the steps is half of the answer
            raise type(error)(f"{step.label}: {error}") from error
        raise
    log.info("%-32s %6.1f s  %s", step.label, time.perf_counter() - start, run.run_id)
    return done


def _compute(handle: Handle, run: StepRun, inputs: dict[str, Path]) -> StepRun:
    from tasks.steps import STEPS

    step, store, runtime = handle.step, handle.store, handle.runtime
    _quieten_libraries()
    journal = Journal(store.client, run.run_id, step.title, bar=handle.in_flow)
    # By what went in as well: an input that was refreshed has the key of the one before.
    checkpoints = runtime.checkpoints / f"{step.key}-{run.upstream[:12]}"

    def on_metrics(number: int, metrics: dict[str, float]) -> None:
        stop_if_interrupted()
        journal.on_metrics(number, metrics)

    context = Context(runtime, on_metrics, checkpoints)
    work = runtime.home / "work"
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work, prefix=f"{step.key}-") as folder:
        out = Path(folder)
        start = time.perf_counter()
        STEPS[step.name](step, inputs, out, context)
        journal.close()
        circumstance = {
            "seconds": time.perf_counter() - start,
            "runtime": runtime.model_dump(mode="json", exclude={"tracking_uri", "home"}),
            "provenance": provenance(),
            **context.circumstance,
        }
        (out / CIRCUMSTANCE).write_text(json.dumps(circumstance, indent=1, sort_keys=True))
        done = store.commit(run, out)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return done


def stop_if_interrupted() -> None:
    """End here where the run was told to.

    Raises:
        Interrupted: it was.
    """
    if interruption.is_set():
        raise Interrupted("interrupted; the same command goes on where this one stopped")


def _quieten_libraries() -> None:
    """Bars only where somebody watches, and no word about what only a library can mend."""
    from transformers.utils import logging as transformers_logging

    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    # PEFT 0.21 asks transformers 5.23 for a property by its deprecated name.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
