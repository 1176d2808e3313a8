"""Steps as a Prefect fan-out: each job is a process of its own, some of them at once.

A training seeds its process's generators and takes its whole device, so two cannot share a process.
"""

import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State
from prefect.futures import PrefectFuture, wait
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.fan_out.child import DIVERGED, DONE
from ila_core.errors import CheckError
from tasks.run.supervise import Devices, interruption, run_child, stop_if_interrupted

log = logging.getLogger("ila")


class Job:
    """One process to run. A plain object, into which Prefect does not look.

    Args:
        name: what a person calls it.
        profile: the profile as one line of JSON.
        until: for which target of the pipeline its steps are needed.
        keys: of these steps.
        output: the file that its process writes to.
    """

    def __init__(
        self, name: str, profile: str, until: str, keys: Sequence[str], output: Path
    ) -> None:
        self.name, self.profile, self.until = name, profile, until
        self.keys, self.output = keys, output


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
    with devices.one() as environment:
        command = [sys.executable, "-m", "flows.fan_out.child", job.until, *job.keys]
        code = run_child(command, f"{job.profile}\n", job.output, environment)
    state = {DONE: "done", DIVERGED: "diverged"}.get(code, "failed")
    log.info("%-44s %-8s %6.1f s", job.name, state, time.perf_counter() - start)
    if state == "failed":
        said = job.output.read_text(errors="replace").strip().splitlines() or ["nothing was said"]
        raise CheckError(
            f"{job.name}: {said[-1].removeprefix('ila: ')} (exit {code}). All that it said "
            f"is in {job.output}; what others finished is kept"
        )
    return True if code == DONE else Completed(name="Diverged", data=False)
