"""One step: look it up, or claim it, compute it and commit it. No Prefect here."""

import logging
import time
from collections.abc import Sequence

from ila_core.config import RuntimeConfig
from ila_core.errors import CheckError, UserError, first_line
from tasks.cache.plan import who
from tasks.cache.step import Step
from tasks.cache.step_run import StepRun, upstream_digest
from tasks.cache.store import Store
from tasks.run.child import SubprocessSpec, compute_in_subprocess
from tasks.run.compute import StepJob, compute_step
from tasks.run.gpu_slots import slot
from tasks.run.metrics import Bar
from tasks.run.supervise import stop_if_interrupted
from tasks.tracking.client import translate_mlflow_errors

log = logging.getLogger("ila")

_SAY_AGAIN_SECONDS = 30.0


class Handle:
    """A step and how it is to be computed: a plain object, into which Prefect does not look.

    Args:
        step: what to look up or compute.
        store: where to.
        runtime: where and how it is computed.
        subprocess: how it is computed in a process of its own; `None` computes it in this one.
        refresh: why it is computed although it is cached, which its result then supersedes;
            `None` where it is not.
        in_flow: whether there is a Prefect task to show a progress bar in.
    """

    def __init__(
        self,
        step: Step,
        store: Store,
        runtime: RuntimeConfig,
        *,
        subprocess: SubprocessSpec | None = None,
        refresh: str | None = None,
        in_flow: bool = True,
    ) -> None:
        self.step, self.store, self.runtime = step, store, runtime
        self.subprocess, self.refresh, self.in_flow = subprocess, refresh, in_flow


def run_here(steps: Sequence[Step], store: Store, runtime: RuntimeConfig) -> None:
    """Look up or compute `steps` (inputs first) one by one, in this process and in no flow."""
    runs: dict[str, StepRun] = {}
    for step in steps:
        upstream = {name: runs[str(up.key)] for name, up in step.inputs.items()}
        handle = Handle(step, store, runtime, in_flow=False)
        runs[str(step.key)], _ = look_up(handle, upstream)


def look_up(handle: Handle, upstream: dict[str, StepRun]) -> tuple[StepRun, bool]:
    """Look the step up, or compute it.

    Args:
        handle: the step.
        upstream: the finished runs of its inputs.

    Returns:
        The finished run, and whether it was computed just now.
    """
    step, store = handle.step, handle.store
    stop_if_interrupted()
    waiting = Waiting(step, bar=handle.in_flow)
    with translate_mlflow_errors(handle.runtime.tracking_uri):
        old = [] if handle.refresh is None else store.finished(step)
        run, mine = store.claim(step, upstream_digest(upstream), waiting, instead_of=old)
        waiting.over()
        if mine:
            run = _computed(handle, run, upstream)
            if handle.refresh is not None:
                store.supersede(old, run, handle.refresh)
        else:
            log.info("%-32s cached    %s", step.label, run.run_id)
    return run, mine


class Waiting:
    """Says, now and then, whom a step waits for and how far that is.

    Args:
        step: that somebody else computes now.
        bar: whether to show theirs in the Prefect UI.
    """

    def __init__(self, step: Step, *, bar: bool) -> None:
        self._label = step.label
        self._bar = Bar(f"{step.title}, computed by somebody else", shown=bar)
        self._said, self._next = "", 0.0

    def __call__(self, run: StepRun) -> None:
        """Called again and again with the run as it is now.

        Raises:
            Interrupted: the waiting run was told to end; the other is left alone.
        """
        stop_if_interrupted()
        said = f"{run.run_id} ({who(run)})"
        if said == self._said or time.monotonic() < self._next:
            return
        log.info("%-32s waits for run %s", self._label, said)
        self._said, self._next = said, time.monotonic() + _SAY_AGAIN_SECONDS
        if run.progress is not None:
            self._bar.show(run.progress)

    def over(self) -> None:
        """The wait is over: theirs is finished, or ours now."""
        self._bar.fill()


def _computed(handle: Handle, run: StepRun, upstream: dict[str, StepRun]) -> StepRun:
    step, store, runtime = handle.step, handle.store, handle.runtime
    start = time.perf_counter()
    try:
        # The slot after the claim: whoever waits for somebody else's result holds none.
        with store.heartbeat(run), slot(runtime.gpu_limit, step.label):
            inputs = {name: store.fetch(upstream[name]) for name in upstream}
            job = StepJob(step, run, inputs, runtime, bar=handle.in_flow)
            if handle.subprocess is None:
                done = compute_step(job, store)
            else:
                done = compute_in_subprocess(job, store, handle.subprocess)
    except Exception as error:
        log.error("%-32s failed    %s", step.label, first_line(error))
        if isinstance(error, UserError | CheckError):  # which of the steps is half of the answer
            raise type(error)(f"{step.label}: {error}") from error
        raise
    log.info("%-32s %6.1f s  %s", step.label, time.perf_counter() - start, run.run_id)
    return done
