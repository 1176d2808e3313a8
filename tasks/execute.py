"""One Prefect task per step: look it up, or compute it and commit it."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from ila_core.reproducibility import provenance
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.states import Completed, State

from ila_core.config import RuntimeConfig
from tasks.journal import Journal
from tasks.lookup import StepRun
from tasks.payloads import CIRCUMSTANCE
from tasks.step import Context, Step
from tasks.store import Store


def submit(
    step: Step, store: Store, runtime: RuntimeConfig, inputs: dict[str, Any]
) -> PrefectFuture:
    """Hand `step` to the flow's task runner; `inputs` are the futures of its inputs' runs."""
    named = cached_step.with_options(name=step.name, task_run_name=step.title, tags={"ila"})
    return named.submit(Handle(step, store, runtime), **{"upstream": inputs})


class Handle:
    """Wraps what Prefect must pass on untouched: a plain object, into which it does not look."""

    def __init__(self, step: Step, store: Store, runtime: RuntimeConfig) -> None:
        self.step, self.store, self.runtime = step, store, runtime


@task(cache_policy=NO_CACHE, persist_result=False)
def cached_step(handle: Handle, upstream: dict[str, StepRun]) -> StepRun | State[StepRun]:
    """The step's finished MLflow run. MLflow being down fails the task before any work."""
    step, store = handle.step, handle.store
    log = get_run_logger()
    digests = {name: run.digest for name, run in upstream.items()}

    def waiting(run: StepRun) -> None:
        log.info("%s: waiting for run %s (%s)", step.label, run.run_id, run.tags["ila.owner"])

    run, mine = store.claim(step, digests, waiting)
    if not mine:
        log.info("%s: cached, MLflow run %s", step.title, run.run_id)
        return Completed(name="Cached", data=run)
    log.info("%s: computing, MLflow run %s", step.title, run.run_id)
    with store.beating(run):
        return _compute(handle, run, {name: store.fetch(r) for name, r in upstream.items()})


def _compute(handle: Handle, run: StepRun, inputs: dict[str, Path]) -> StepRun:
    from tasks.steps import STEPS

    step, store, runtime = handle.step, handle.store, handle.runtime
    journal = Journal(store.client, run.run_id, step.title)
    context = Context(runtime, journal.on_metrics)
    work = runtime.home / "work"
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work, prefix=f"{step.key}-") as folder:
        out = Path(folder)
        start = time.perf_counter()
        STEPS[step.name].compute(step, inputs, out, context)
        journal.flush()
        circumstance = {
            "seconds": time.perf_counter() - start,
            "runtime": runtime.model_dump(mode="json", exclude={"tracking_uri", "home"}),
            "provenance": provenance(),
            **context.circumstance,
        }
        (out / CIRCUMSTANCE).write_text(json.dumps(circumstance, indent=1, sort_keys=True))
        return store.commit(run, out, {})
