"""`ila evaluate`: measure a run's arms, an adapter or the base on any benchmark."""

from collections.abc import Mapping, Sequence

from flows.actions.evaluation_targets import Target, find_target
from flows.actions.run import finished, need_prefect, prefect_ready
from flows.plan.refresh import Refresh
from flows.results.evaluation import Measured
from flows.results.profile_plan import ProfilePlan, plan_of
from flows.views.judge_forecast import asks_an_endpoint
from ila_core.compare.results import Evaluation
from ila_core.config import RuntimeConfig
from ila_core.errors import CheckError, UserError
from tasks.cache.payloads import fetch
from tasks.cache.step_run import StepRun


def run_evaluate(
    given: Sequence[str],
    profile: str | None,
    *,
    benchmarks: Sequence[str],
    limit: int | None,
    overrides: Sequence[str],
    refresh: Refresh,
    jobs: int,
    as_json: bool,
) -> None:
    """Compute what is missing, `jobs` models at once, and show every benchmark of every model."""
    from flows.views.evaluation import show_evaluation

    target = find_target(given, profile, benchmarks=benchmarks, limit=limit, overrides=overrides)
    planned = plan_of(target.profile, until=target.until)
    if jobs > 1 and refresh.names:
        raise UserError("--jobs computes what is missing: refresh first, or with --jobs 1")
    if jobs > 1:
        need_prefect(f"--jobs {jobs}")
        _in_processes(planned, target, jobs)
        planned = plan_of(target.profile, until=target.until)
    runs = finished(planned, target.until, refresh)
    show_evaluation(target.profile, measured(planned, target, runs), as_json=as_json)


def _in_processes(planned: ProfilePlan, target: Target, jobs: int) -> None:
    """Train here first; then evaluate each model and seed with missing results in a process.

    Raises:
        CheckError: when an evaluation fails; the results of the others are cached.
    """
    folder = RuntimeConfig.from_env().home / "logs"
    cached = {p.step.key for p in planned.steps if p.run is not None}
    evaluations = planned.pipeline.targets(target.until)
    # Trainings never share a device. What else several processes read, one computes and the
    # others wait for (`Store.claim`).
    before = "+".join(f"trained={arm}" for arm in target.arms)
    finished(plan_of(target.profile, until=before), before)
    missing: dict[str, list[str]] = {}
    for evaluation in evaluations:
        # A judge at an endpoint is asked by this process alone, in the end: one budget, one number
        # of requests at once.
        step = evaluation.inputs["answers"] if asks_an_endpoint(evaluation) else evaluation
        if step.key not in cached:
            names = step.given["names"]
            model = " ".join(str(x) for x in names.values() if x is not None)
            missing.setdefault(model, []).append(str(step.key))
    if len(missing) < 2:
        return
    profile = target.profile.model_dump_json()
    with prefect_ready():
        from flows.fan_out.jobs import Job, run_jobs

        queue = [
            Job(f"evaluate {name}", profile, target.until, keys, folder / f"evaluate-{keys[0]}.log")
            for name, keys in missing.items()
        ]
        if not all(run_jobs(target.profile.name, "evaluate", queue, jobs)):
            raise CheckError(f"a loss was not finite: see {folder}")


def measured(planned: ProfilePlan, target: Target, runs: Mapping[str, StepRun]) -> list[Measured]:
    """Read the finished evaluations of the target."""
    found = []
    for step in planned.pipeline.targets(target.until):
        run = runs.get(str(step.key))
        if run is not None:
            names = step.given["names"]
            result = Evaluation.load(fetch(run) / "evaluation.json")
            found.append(Measured(names["arm"], names["seed"], run.key, result))
    return found
