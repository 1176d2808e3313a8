"""Compute a claimed step in a process of its own, which ends with this one."""

import json
import logging
import signal
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ila_core.errors import CheckError, Diverged, UserError
from tasks.cache.step_run import StepRun
from tasks.cache.store import Store
from tasks.run.compute import StepJob
from tasks.run.metrics import Bar, Pace
from tasks.run.supervise import Devices, run_child

log = logging.getLogger("ila")

_KINDS = (UserError, Diverged, CheckError, ConnectionError, PermissionError)
"""Errors that come back as what they are: the first that fits."""
_LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class SubprocessSpec:
    """How steps are computed in processes of their own.

    Args:
        command: of such a process; the file for its error is added to it.
        request: what it must know to make a step again: data that has a JSON form.
        devices: one for each.
    """

    command: tuple[str, ...]
    request: Mapping[str, Any]
    devices: Devices


def kind_of(error: Exception) -> str:
    """Name the kind as which an expected error comes back from a child."""
    return next((kind.__name__ for kind in _KINDS if isinstance(error, kind)), CheckError.__name__)


def compute_in_subprocess(job: StepJob, store: Store, spec: SubprocessSpec) -> StepRun:
    """Compute the step in a child, passing on its log lines and its progress.

    Raises:
        UserError, CheckError, Diverged, ConnectionError, PermissionError: as the child did.
        CheckError: the child died, or failed in a way nobody foresaw; its output is kept.
        Interrupted: the run was asked to end.
    """
    bar = Bar(job.step.title, shown=job.bar)
    pace = Pace(_LOOK_SECONDS)

    def look() -> None:
        if pace.due():
            with pace.tolerate_outage(f"{job.step.title}: no progress is shown"):
                if (progress := store.read(job.run.run_id).progress) is not None:
                    bar.show(progress)

    step, run = job.step, job.run
    inputs = {name: str(folder) for name, folder in job.inputs.items()}
    request = {**spec.request, "key": step.key, "run": run.run_id, "inputs": inputs}
    output = job.runtime.home / "logs" / f"{step.title}.log"
    with tempfile.TemporaryDirectory() as folder, spec.devices.one() as environment:
        error_file = Path(folder) / "error.json"
        code = run_child(
            [*spec.command, str(error_file)],
            f"{json.dumps(request)}\n",
            output,
            environment,
            on_line=lambda line: log.info("  %s", line),
            meanwhile=look,
        )
        if error_file.exists():
            error = json.loads(error_file.read_text())
            kinds = {kind.__name__: kind for kind in _KINDS}
            raise kinds[error["kind"]](error["message"])
    if code != 0:
        raise CheckError(f"its process {_ended(code)}; all that it said is in {output}")
    bar.fill()
    return store.read(run.run_id)


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with {code}"
    name = signal.Signals(-code).name
    return f"was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
