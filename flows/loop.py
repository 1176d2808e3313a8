"""The story without Prefect (`ILA_PREFECT=off`): the same steps in a plain loop, in this process.

Each step is what the body of its Prefect task is (`look_up`). What Prefect adds is
left out: its UI, steps side by side, and a server that counts GPUs.
"""

import logging
from collections.abc import Mapping, Sequence

from flows.pipeline import ila_pipeline
from flows.plan.references import resolve
from ila_core.config import Profile, RuntimeConfig
from ila_core.errors import CheckError, UserError, first_line
from ila_core.resolve import Lock
from tasks.cache.step_run import StepRun
from tasks.cache.store import Store
from tasks.run.execute import Handle, look_up
from tasks.run.supervise import interruption


def run_loop(
    profile: Profile, until: str, refresh: Mapping[str, str], ranking: str | None
) -> dict[str, StepRun]:
    """Do what `flows.step_flow.run_pipeline` does, without Prefect.

    Args:
        profile: the run.
        until: which steps to finish (`Pipeline.targets`).
        refresh: keys of steps to compute although they are cached, each with the reason.
        ranking: reference of the one that fine-tuning reads in place of the search's own.

    Returns:
        The finished MLflow run of each step, by the step's key.

    Raises:
        UserError: the environment asks for what Prefect alone does.
    """
    logging.getLogger("ila").setLevel(logging.INFO)
    interruption.clear()
    runtime = RuntimeConfig.from_env()
    _refuse_what_needs_prefect(runtime)
    given = resolve(ranking) if ranking else None
    pipeline = ila_pipeline(profile, Lock(runtime.home, online=True), given)
    store = Store(runtime, profile.model.name)
    steps = pipeline.steps(until)
    runs: dict[str, StepRun] = {}
    failures: list[Exception] = []
    for step in steps:
        if any(str(needed.key) not in runs for needed in step.inputs.values()):
            continue  # one that it needs failed
        again = refresh.get(str(step.key))
        handle = Handle(step, store, runtime, refresh=again, in_flow=False)
        upstream = {name: runs[str(needed.key)] for name, needed in step.inputs.items()}
        try:
            runs[str(step.key)], _ = look_up(handle, upstream)
        except Exception as error:
            failures.append(error)
    if failures:
        raise failure_of(failures, len(steps) - len(runs) - len(failures), len(runs))
    return runs


def failure_of(failures: Sequence[Exception], not_begun: int, finished: int) -> Exception:
    """Make one error of those of all failed steps.

    Returns:
        That of the only step that failed, or the first where a server did not answer any: a later
        try may find it mended. Otherwise an error with the first line of each: a UserError where
        all are of wrong input, else a CheckError.
    """
    if len(failures) == 1 or all(isinstance(failure, ConnectionError) for failure in failures):
        return failures[0]
    listed = "".join(f"\n- {first_line(failure)}" for failure in failures)
    wrong_input = all(isinstance(failure, UserError) for failure in failures)
    return (UserError if wrong_input else CheckError)(
        f"{len(failures)} steps failed:{listed}\n{not_begun} that need them were not begun; "
        f"{finished} are finished and kept, and the same command computes what is missing"
    )


def _refuse_what_needs_prefect(runtime: RuntimeConfig) -> None:
    asked = {
        "ILA_GPU_LIMIT": (runtime.gpu_limit, "GPUs are counted by a Prefect server"),
        "ILA_JOBS": (runtime.jobs, "steps run side by side as Prefect tasks"),
    }
    for variable, (value, why) in asked.items():
        if value:
            raise UserError(
                f"{variable}={value} with ILA_PREFECT=off: {why}. Unset one of the two variables"
            )
