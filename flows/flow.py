"""The story as a Prefect flow: every step one task, looked up before it is computed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from enum import StrEnum

from prefect import flow
from prefect.futures import PrefectFuture, wait
from prefect.task_runners import ThreadPoolTaskRunner

from flows.pipeline import ila_pipeline
from flows.stored import find_ranking
from ila_core.config import Profile, RuntimeConfig
from ila_core.lock import Lock
from ila_core.profiles import load_profile, shipped
from tasks.execute import interruption, submit
from tasks.lookup import StepRun
from tasks.step import in_order
from tasks.store import Store

ProfileName = StrEnum("ProfileName", {n: n for n in shipped("runs")})  # type: ignore[misc]
"""The shipped run profiles: a drop-down in the Prefect UI."""


# One worker: a step seeds the process's generators and takes the whole device. Steps that do not
# depend on a failed one still run, so a failure costs nobody what the others computed.
@flow(
    name="ila",
    flow_run_name="{profile.name}-{until}",
    task_runner=ThreadPoolTaskRunner(max_workers=1),  # type: ignore[arg-type]
    validate_parameters=False,
)
def run_pipeline(
    profile: Profile,
    until: str = "report",
    refresh: Sequence[str] = (),
    ranking: str | None = None,
) -> dict[str, StepRun]:
    """Compute what is not cached yet, up to the search or to the report.

    Where it runs (`RuntimeConfig`) comes from the environment: as a parameter, the address of
    MLflow, and a password in it, would be on show in the UI.

    Args:
        profile: the run.
        until: which steps to finish (`Pipeline.targets`).
        refresh: keys of steps to compute although they are cached.
        ranking: reference of the one that fine-tuning reads in place of the search's own.

    Returns:
        The finished MLflow run of each step, by the step's key.
    """
    # Prefect passes this logger's lines on (PREFECT_LOGGING_EXTRA_LOGGERS) but gives it no level.
    logging.getLogger("ila").setLevel(logging.INFO)
    interruption.clear()
    runtime = RuntimeConfig.from_env()
    found = find_ranking(ranking) if ranking else None
    pipeline = ila_pipeline(profile, Lock(runtime.home, online=True), found)
    steps = in_order(*pipeline.targets(until))
    store = Store(runtime, profile.model.name)
    runs: dict[str, PrefectFuture[StepRun]] = {}
    try:
        for step in steps:
            inputs = {name: runs[str(upstream.key)] for name, upstream in step.inputs.items()}
            again = step.key in refresh
            runs[str(step.key)] = submit(step, store, runtime, inputs, refresh=again)
        wait(list(runs.values()))
    except BaseException:  # Ctrl-C, or the worker's SIGTERM: leave only once no thread computes
        interruption.set()
        raise
    return {key: future.result() for key, future in runs.items()}


@flow(name="ila-deployed", log_prints=False)
def run_profile(profile: ProfileName, overrides: list[str] | None = None) -> None:
    """Run a shipped profile on a worker, which supplies where and how (`RuntimeConfig`).

    Args:
        profile: a run profile that comes with ILA.
        overrides: fields to change, each `a.b=c`, e.g. `finetune.lora.lr=2.0e-4`.
    """
    run_pipeline(load_profile(profile.value, overrides or []))
