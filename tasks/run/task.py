"""Each step as one Prefect task."""

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State
from prefect.futures import PrefectFuture
from prefect.states import Completed

from tasks.cache.step_run import StepRun
from tasks.run.execute import Handle, look_up
from tasks.tracking.client import translate_mlflow_errors
from tasks.ui.tables import publish_tables


def submit(handle: Handle, inputs: dict[str, PrefectFuture[StepRun]]) -> PrefectFuture[Any]:
    """Hand a step to the flow's task runner.

    Args:
        handle: the step.
        inputs: the finished futures of its inputs' runs.
    """
    step = handle.step
    named = cached_step.with_options(name=step.name, task_run_name=step.title, tags={"ila"})
    return named.submit(handle, **{"upstream": inputs})  # type: ignore[arg-type]


@task(cache_policy=NO_CACHE, persist_result=False)
def cached_step(handle: Handle, upstream: dict[str, StepRun]) -> StepRun | State[StepRun]:
    """The step's finished MLflow run. MLflow being down fails the task before any work."""
    run, mine = look_up(handle, upstream)
    with translate_mlflow_errors(handle.runtime.tracking_uri):
        publish_tables(handle.step, run, upstream, handle.store.fetch)
    return run if mine else Completed(name="Cached", data=run)
