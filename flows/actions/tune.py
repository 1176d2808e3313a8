"""`ila tune`: learning rates and lengths of fine-tuning, tried and chosen on held-out loss."""

import time
from collections.abc import Mapping, Sequence

from flows.actions.run import finished, need_prefect, prefect_ready
from flows.plan.tuning_grid import Trial
from flows.results.profile_plan import ProfilePlan, plan_profile
from flows.views.tune import show_tune
from ila_core.compare.results import Evaluation
from ila_core.config import Profile, RuntimeConfig, TuneConfig
from ila_core.config.load import Given
from ila_core.errors import CheckError, UserError, unknown_name
from ila_core.selection.tune import TrialResult, choose, trial_result
from tasks.cache.lookup import hits, open_lookup
from tasks.cache.payloads import MEASUREMENTS, fetch, read_json
from tasks.cache.step_run import StepRun


def run_tune(given: Given, overrides: Sequence[str], *, jobs: int, as_json: bool) -> None:
    """Train every trial that is not cached, `jobs` of them at once, then show all of them.

    A trial that diverges stands in the table as such; it leaves no result, so that it is tried
    again next time.
    """
    start = time.perf_counter()
    planned = plan_profile(given, overrides, online=True, until="before-tune")
    tune = _checked(planned.profile)
    need_prefect("ila tune")
    trials = planned.pipeline.trials
    # What the trials share, once: two of them would wait for each other.
    finished(planned, "before-tune")
    before = _cached(planned)
    missing = [trial for trial in trials if not _is_in(trial, before)]
    diverged = _train(planned, missing, jobs) if missing else []
    after = _cached(planned) if missing else before
    for trial in missing:
        if trial not in diverged and not _is_in(trial, after):
            raise CheckError(f"trial {trial.name} ended, but its results are not in the cache")
    results = [_result(trial, {} if trial in diverged else after) for trial in trials]
    chosen = choose(results)
    show_tune(
        planned.profile,
        tune,
        results,
        chosen,
        computed=len(missing),
        seconds=time.perf_counter() - start,
        as_json=as_json,
    )
    lost = [arm for arm in tune.arms if arm not in chosen]
    if lost:
        raise CheckError(f"every trial of {', '.join(lost)} diverged: try lower learning rates")


def _checked(profile: Profile) -> TuneConfig:
    """The grids, which give every arm that is to be tuned its trials.

    Raises:
        UserError: they do not.
    """
    finetuning, tune = profile.finetune, profile.finetune.tune
    if tune is None:
        raise UserError(
            f"profile {profile.name!r} has no grid to search: give finetune.tune, for example "
            "--set 'finetune.tune={lora: {lr: [1.0e-3, 5.0e-4], epochs: [2, 3]}}'"
        )
    arms = {arm.name: arm for arm in finetuning.arms}
    for name in tune.arms:
        if name not in arms:
            raise unknown_name("arm in finetune.tune.arms", name, arms)
        method = finetuning.method_of(arms[name])
        if method not in tune.grids:
            raise UserError(
                f"arm {name!r} is trained by {method}, for which there is no grid: give "
                f"finetune.tune.{method}; given are {', '.join(tune.grids) or 'none'}"
            )
    return tune


def _cached(planned: ProfilePlan) -> Mapping[str, StepRun]:
    steps = planned.pipeline.steps("tune")
    runtime = RuntimeConfig.from_env()
    return hits(steps, open_lookup(runtime, planned.profile.model.name))


def _is_in(trial: Trial, cached: Mapping[str, StepRun]) -> bool:
    return all(str(step.key) in cached for step in trial.evaluated.values())


def _train(planned: ProfilePlan, trials: Sequence[Trial], jobs: int) -> list[Trial]:
    """Those that diverged; the results of the others are in the cache."""
    folder = RuntimeConfig.from_env().home / "logs"
    profile = planned.profile.model_dump_json()
    with prefect_ready():
        from flows.fan_out.jobs import Job, run_jobs

        queue = []
        for trial in trials:
            keys = [str(step.key) for step in trial.evaluated.values()]
            log = folder / f"trial-{keys[0]}.log"
            queue.append(Job(f"trial {trial.name}", profile, "tune", keys, log))
        done = run_jobs(planned.profile.name, "tune", queue, jobs)
    return [trial for trial, ok in zip(trials, done, strict=True) if not ok]


def _result(trial: Trial, runs: Mapping[str, StepRun]) -> TrialResult:
    evaluations: dict[int, float] = {}
    finetunes = []
    for seed, step in trial.evaluated.items() if runs else ():
        evaluations[seed] = Evaluation.load(fetch(runs[str(step.key)]) / "evaluation.json").value
        tuned = fetch(runs[str(trial.tuned[seed].key)])
        finetunes.append(read_json(tuned / "finetune.json") | read_json(tuned / MEASUREMENTS))
    return trial_result(trial.arm, trial.method, trial.settings, evaluations, finetunes)
