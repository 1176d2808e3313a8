"""Steps as a Prefect fan-out: each job is a process of its own, some of them at once.

A training seeds its process's generators and takes its whole device, so two cannot share a process.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State
from prefect.futures import PrefectFuture, wait
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.child import DIVERGED, DONE
from ila_core.errors import CheckError
from tasks.execute import interruption, stop_if_interrupted

log = logging.getLogger("ila")


class Job:
    """One process to run. A plain object, into which Prefect does not look.

    Args:
        name: what a person calls it.
        profile: the profile as one line of JSON.
        until: among which targets of the pipeline its steps are.
        keys: of these steps.
        output: the file that its process writes to.
    """

    def __init__(
        self, name: str, profile: str, until: str, keys: Sequence[str], output: Path
    ) -> None:
        self.name, self.profile, self.until = name, profile, until
        self.keys, self.output = keys, output


class Devices:
    """Hands each job one of the devices that `CUDA_VISIBLE_DEVICES` lists, if it lists several."""

    def __init__(self, jobs: int) -> None:
        listed = [x for x in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if x]
        self._free: queue.Queue[str] | None = None
        if len(listed) > 1:
            self._free = queue.Queue()
            for i in range(max(jobs, len(listed))):
                self._free.put(listed[i % len(listed)])

    @contextmanager
    def one(self) -> Iterator[dict[str, str]]:
        """The environment that leaves a process its device alone."""
        if self._free is None:
            yield dict(os.environ)
            return
        device = self._free.get()
        try:
            yield {**os.environ, "CUDA_VISIBLE_DEVICES": device}
        finally:
            self._free.put(device)


def run_jobs(profile: str, what: str, jobs: Sequence[Job], at_once: int) -> list[bool]:
    """Run all of them, though one should fail.

    Args:
        profile: its name.
        what: the flow is called `ila-WHAT`.
        jobs: in the order in which they are begun.
        at_once: how many may run together.

    Returns:
        Of each, whether it finished; otherwise it diverged.

    Raises:
        CheckError: one neither finished nor diverged.
    """
    fan_out = _fan_out.with_options(
        task_runner=ThreadPoolTaskRunner(max_workers=at_once),  # type: ignore[arg-type]
        name=f"ila-{what}",
        flow_run_name=f"{profile}-{what}",
    )
    return fan_out(jobs, Devices(at_once))


@flow(validate_parameters=False)
def _fan_out(jobs: Sequence[Job], devices: Devices) -> list[bool]:
    logging.getLogger("ila").setLevel(logging.INFO)
    interruption.clear()
    futures: list[PrefectFuture[Any]] = [
        _job.with_options(task_run_name=job.name, tags={"ila"}).submit(job, devices) for job in jobs
    ]
    try:
        wait(futures)
    except BaseException:  # Ctrl-C, or a worker's SIGTERM: leave only once no process computes
        interruption.set()
        raise
    return [future.result() for future in futures]


@task(name="job", cache_policy=NO_CACHE, persist_result=False)
def _job(job: Job, devices: Devices) -> bool | State[bool]:
    stop_if_interrupted()
    start = time.perf_counter()
    job.output.parent.mkdir(parents=True, exist_ok=True)
    with devices.one() as environment, job.output.open("wb") as output:
        command = [sys.executable, "-m", "flows.child", job.until, *job.keys]
        code = run_child(command, job.profile, output.fileno(), environment)
    state = {DONE: "done", DIVERGED: "diverged"}.get(code, "failed")
    log.info("%-44s %-8s %6.1f s", job.name, state, time.perf_counter() - start)
    if state == "failed":
        said = job.output.read_text(errors="replace").strip().splitlines() or ["nothing was said"]
        raise CheckError(
            f"{job.name}: {said[-1].removeprefix('ila: ')} (exit {code}). All that it said "
            f"is in {job.output}; what others finished is kept"
        )
    return True if code == DONE else Completed(name="Diverged", data=False)


def run_child(command: Sequence[str], said: str, output: int, environment: dict[str, str]) -> int:
    """The exit code of a process that lives no longer than this one.

    Its standard input gets one line and then stays open: when this process dies, by whatever
    means, the pipe closes, and the child ends itself (`flows.child`).

    Raises:
        Interrupted: the run was told to end, and the child has.
    """
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,  # a Ctrl-C is ours to pass on, and the group is the child's own
    )
    assert child.stdin is not None
    try:
        with suppress(BrokenPipeError):  # it ended already: its exit code says more
            child.stdin.write(f"{said}\n".encode())
            child.stdin.flush()
        while child.poll() is None:
            interruption.wait(0.1)
            stop_if_interrupted()
    finally:
        if child.poll() is None:
            # Nothing is lost: what it finished is committed, and its training left checkpoints.
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        with suppress(BrokenPipeError):
            child.stdin.close()
    return child.returncode
