"""Compute a claimed step in a process of its own, which ends with this one."""

from __future__ import annotations

import json
import logging
import pickle
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from ila_core.errors import CheckError, Diverged, UserError
from tasks.compute import Order
from tasks.journal import Bar
from tasks.lookup import StepRun
from tasks.store import Store
from tasks.supervise import Devices, run_child

log = logging.getLogger("ila")

EXPECTED: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (UserError, Diverged, CheckError, ConnectionError)
}
"""Errors that come back as what they are; the first that fits."""
_LOOK_SECONDS = 5.0


def compute_apart(order: Order, store: Store, devices: Devices) -> StepRun:
    """Compute the step in a child, passing on its log lines and its progress.

    Raises:
        UserError, CheckError, Diverged, ConnectionError: as the child did.
        CheckError: the child died, or failed in a way nobody foresaw; its output is kept.
        Interrupted: the run was told to end.
    """
    bar = Bar(order.step.title, shown=order.bar)
    next_look = time.monotonic() + _LOOK_SECONDS

    def look() -> None:
        nonlocal next_look
        if time.monotonic() >= next_look:
            next_look = time.monotonic() + _LOOK_SECONDS
            if (progress := store.read(order.run.run_id).progress) is not None:
                bar.show(progress)

    output = order.runtime.home / "logs" / f"{order.step.title}.log"
    with tempfile.TemporaryDirectory() as folder, devices.one() as environment:
        result = Path(folder) / "error.json"
        code = run_child(
            [sys.executable, "-m", "tasks.child", str(result)],
            pickle.dumps(replace(order, bar=False)),  # this process shows it
            output,
            environment,
            heard=lambda line: log.info("  %s", line),
            meanwhile=look,
        )
        if result.exists():
            error = json.loads(result.read_text())
            raise EXPECTED[error["kind"]](error["message"])
    if code != 0:
        raise CheckError(f"its process {_ended(code)}; all that it said is in {output}")
    bar.fill()
    return store.read(order.run.run_id)


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with {code}"
    name = signal.Signals(-code).name
    return f"was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
