"""The story as a Prefect flow: every step one task, looked up before it is computed."""

import logging
import sys
from collections.abc import Mapping, Sequence

from prefect import flow
from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.loop import failure_of
from flows.pipeline import ila_pipeline
from flows.plan.references import resolve
from ila_core.config import Profile, RuntimeConfig
from ila_core.errors import CheckError, UserError, first_line
from ila_core.resolve import Lock
from ila_core.search.ranking_reference import ResolvedRanking
from tasks.cache.lookup import hits
from tasks.cache.step import Step
from tasks.cache.step_run import StepRun
from tasks.cache.store import Store
from tasks.run.child import SubprocessSpec
from tasks.run.execute import Handle
from tasks.run.gpu_slots import check_limit
from tasks.run.supervise import Devices, interruption
from tasks.run.task import submit
from tasks.tracking.client import translate_mlflow_errors
from tasks.ui.origin import Origin
from tasks.ui.page import Summary

log = logging.getLogger("ila")


def run_pipeline(
    profile: Profile,
    until: str = "report",
    refresh: Mapping[str, str] | None = None,
    ranking: str | None = None,
) -> dict[str, StepRun]:
    """Compute what is not cached yet, up to the search or to the report.

    Where it runs (`RuntimeConfig`) comes from the environment: as a parameter, the address of
    MLflow, and a password in it, would be on show in the UI.

    Args:
        profile: the run.
        until: which steps to finish (`Pipeline.targets`).
        refresh: keys of steps to compute although they are cached, each with the reason.
        ranking: reference of the one that fine-tuning reads in place of the search's own.

    Returns:
        The finished MLflow run of each step, by the step's key.
    """
    # In one process steps go one by one: each seeds its generators and takes the whole device.
    jobs = RuntimeConfig.from_env().jobs
    run = _pipeline.with_options(
        task_runner=ThreadPoolTaskRunner(max_workers=max(1, jobs)),  # type: ignore[arg-type]
    )
    return run(profile, until, refresh or {}, ranking)


@flow(name="ila", flow_run_name="{profile.name}-{until}", validate_parameters=False)
def _pipeline(
    profile: Profile, until: str, refresh: Mapping[str, str], ranking: str | None
) -> dict[str, StepRun]:
    # Prefect passes this logger's lines on (PREFECT_LOGGING_EXTRA_LOGGERS) but gives it no level.
    log.setLevel(logging.INFO)
    interruption.clear()
    runtime = RuntimeConfig.from_env()
    check_limit(runtime.gpu_limit)
    found = resolve(ranking) if ranking else None
    pipeline = ila_pipeline(profile, Lock(runtime.home, online=True), found)
    origin = Origin.here()
    store = Store(runtime, profile.model.name, origin.tags)
    subprocess = _subprocess_spec(profile, until, found, runtime.jobs) if runtime.jobs else None
    handles = [
        Handle(step, store, runtime, subprocess=subprocess, refresh=refresh.get(str(step.key)))
        for step in pipeline.steps(until)
    ]
    steps = [handle.step for handle in handles]
    try:
        runs = _run_all(handles, at_once=max(1, runtime.jobs))
    except BaseException as error:  # Ctrl-C, or the worker's SIGTERM: leave once no thread computes
        interruption.set()
        if isinstance(error, CheckError | UserError):  # somebody will look for what there is
            try:
                with translate_mlflow_errors(runtime.tracking_uri):
                    kept = hits(steps, store.lookup)
                    Summary(profile.name, until, steps, kept, store, origin).publish()
            except (
                ConnectionError,
                PermissionError,
            ) as away:  # which must not hide what went wrong before
                log.warning("this run has no page of what is finished: %s", first_line(away))
        raise
    Summary(profile.name, until, steps, runs, store, origin).publish()
    return runs


def _subprocess_spec(
    profile: Profile, until: str, found: ResolvedRanking | None, jobs: int
) -> SubprocessSpec:
    request = {
        "profile": profile.model_dump(mode="json"),
        "until": until,
        "ranking": found.pinned if found else None,
    }
    return SubprocessSpec((sys.executable, "-m", "flows.step_process"), request, Devices(jobs))


def _run_all(handles: Sequence[Handle], at_once: int) -> dict[str, StepRun]:
    """Run each step as soon as its inputs are there, `at_once` of them side by side.

    Steps that do not depend on one that failed still run, so that a failure costs nobody what
    the others computed.

    Raises:
        Exception: of the one step that failed, and of the first where a server did not answer any.
        CheckError: of several that failed, all of what they said.
    """
    todo = list(handles)
    under_way: dict[PrefectFuture[StepRun], Step] = {}
    finished: dict[str, PrefectFuture[StepRun]] = {}
    failures: list[Exception] = []
    while True:
        for handle in [h for h in todo if _inputs(h.step) <= finished.keys()]:
            if len(under_way) < at_once:
                todo.remove(handle)
                inputs = {name: finished[str(up.key)] for name, up in handle.step.inputs.items()}
                under_way[submit(handle, inputs)] = handle.step
        if not under_way:
            break
        done = next(as_completed(list(under_way)))
        step = under_way.pop(done)
        try:
            outcome = done.result(raise_on_failure=False)
        except Exception as error:  # not the step failed but Prefect, which all need
            failures.append(error)
            break
        if isinstance(outcome, Exception):
            failures.append(outcome)
        else:
            finished[str(step.key)] = done
    if failures:
        raise failure_of(failures, len(todo), len(finished))
    return {key: future.result() for key, future in finished.items()}


def _inputs(step: Step) -> set[str]:
    return {str(upstream.key) for upstream in step.inputs.values()}
