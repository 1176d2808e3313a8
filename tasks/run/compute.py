"""Compute one claimed step and commit what comes out."""

import json
import shutil
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

from transformers.utils import logging as transformers_logging

from ila_core.config import RuntimeConfig
from ila_core.provenance import provenance
from tasks.cache.payloads import MEASUREMENTS
from tasks.cache.step import Context, Step
from tasks.cache.step_run import StepRun
from tasks.cache.store import Store
from tasks.run.metrics import Journal
from tasks.run.supervise import stop_if_interrupted
from tasks.steps.table import STEPS
from tasks.tracking.client import translate_mlflow_errors


@dataclass(frozen=True)
class StepJob:
    """All that is needed to compute a claimed step."""

    step: Step
    run: StepRun
    """The claim, which somebody keeps alive meanwhile."""
    inputs: dict[str, Path]
    """The payloads of the step's inputs."""
    runtime: RuntimeConfig
    bar: bool
    """Whether to show a progress bar in the Prefect UI."""


def compute_step(job: StepJob, store: Store) -> StepRun:
    """Compute the step, or commit what an earlier try had computed already.

    Raises:
        ConnectionError: MLflow did not take the result, which is kept for the next try.
        PermissionError: the same, from this account.
    """
    step, run, runtime = job.step, job.run, job.runtime
    _quieten_libraries()
    journal = Journal(store.client, run.run_id, step.title, bar=job.bar)
    # By what went in as well: an input that was refreshed has the key of the one before.
    name = f"{step.key}-{run.upstream[:12]}"
    checkpoints, kept = runtime.checkpoints / name, runtime.home / "uncommitted" / name

    def on_metrics(number: int, metrics: dict[str, float]) -> None:
        stop_if_interrupted()
        journal.on_metrics(number, metrics)

    if not kept.is_dir():
        context = Context(runtime, on_metrics, checkpoints)
        work = runtime.home / "work"
        work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=work, prefix=f"{step.key}-") as folder:
            out = Path(folder) / "payload"
            out.mkdir()
            start = time.perf_counter()
            STEPS[step.name](step, job.inputs, out, context)
            measurements = {
                "seconds": time.perf_counter() - start,
                "runtime": runtime.model_dump(mode="json", exclude={"tracking_uri", "home"}),
                "provenance": provenance(),
                **context.measurements,
            }
            (out / MEASUREMENTS).write_text(json.dumps(measurements, indent=1, sort_keys=True))
            kept.parent.mkdir(exist_ok=True)
            out.rename(kept)
        shutil.rmtree(checkpoints, ignore_errors=True)
    try:
        with translate_mlflow_errors(runtime.tracking_uri):
            journal.close()
            done = store.commit(run, kept)
    except (ConnectionError, PermissionError) as error:
        raise type(error)(
            f"{error}\nWhat {step.label} computed is kept in {kept}; the same command commits it."
        ) from error
    shutil.rmtree(kept, ignore_errors=True)  # what stays is `ila gc`'s, as MLflow has it
    return done


def _quieten_libraries() -> None:
    """Bars only where somebody watches, and no word about what only a library can mend."""
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    # PEFT 0.21 asks transformers 5.23 for a property by its deprecated name.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
