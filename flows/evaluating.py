"""`ila evaluate`: a run's arms, an adapter or the base on any benchmark, each computed once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flows.judge_forecast import asks_an_endpoint
from flows.refresh import Refresh
from flows.run import ProfilePlan, finished, plan_of, prefect_ready
from flows.stored import find_finetuning
from ila_core.benchmarks import BENCHMARKS
from ila_core.config import BASE, AdapterSettings, Profile, RuntimeConfig
from ila_core.errors import CheckError, UserError, unknown_name
from ila_core.evaluation.result import Evaluation
from ila_core.profiles import load_profile, shipped
from tasks.lookup import StepRun
from tasks.payloads import fetch
from tasks.steps.payload import read_json


@dataclass(frozen=True)
class Target:
    """What is to be evaluated: a profile with its settings, and which of its arms."""

    profile: Profile
    asked: tuple[tuple[str, ...], ...]
    """Of each argument, the arms that it stands for."""
    name: str
    """Of the profile as it was given."""

    @property
    def arms(self) -> tuple[str, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys(arm for arms in self.asked for arm in arms))

    @property
    def until(self) -> str:
        return "+".join(f"evaluate={arm}" for arm in self.arms)

    def measured_by(self, benchmarks: Sequence[str]) -> Target:
        """The same, by these."""
        return replace(self, profile=_with(self.profile, benchmarks, None, {}))


@dataclass(frozen=True)
class Measured:
    """One evaluation of one model."""

    arm: str
    seed: int | None
    key: str
    result: Evaluation


def find_target(
    given: Sequence[str],
    profile: str | None,
    *,
    benchmarks: Sequence[str] = (),
    limit: int | None = None,
    overrides: Sequence[str] = (),
) -> Target:
    """What `given` names: PROFILE, PROFILE/ARM, ARM, key:..., an adapter's folder, a base model.

    Args:
        given: one or several, all of one base model.
        profile: whose settings, and whose base model, count; one that `given` names by default.
        benchmarks: in place of the profile's own.
        limit: questions per task.
        overrides: fields of the profile to change.

    Raises:
        UserError: nothing answers to it, or an adapter or a model came without a profile.
    """
    parts = [_of_profile(x) for x in given]
    named = {head for head, _ in parts if head is not None} | ({profile} - {None})
    if len(named) > 1:
        raise UserError(f"give things of one profile, not of {', '.join(sorted(map(str, named)))}")
    if not named:
        if all(g.startswith("key:") or Path(g).exists() or g in shipped("models") for g in given):
            raise UserError(
                f"{given[0]}: give --profile as well, which says how it is evaluated and, of an "
                "adapter, what its base model is"
            )
        load_profile(given[0])  # which says what there is
    (chosen,) = named
    loaded = _with(load_profile(str(chosen), overrides), benchmarks, limit, {})
    asked: list[tuple[str, ...]] = []
    for head, rest in parts:
        if head is not None and rest == "":
            own = (a.name for a in loaded.finetune.arms)
            asked.append((BASE, *own, *loaded.evaluate.adapters))
        else:
            loaded, arm = _arm(loaded, rest)
            asked.append((arm,))
    return Target(loaded, tuple(asked), str(chosen))


def _of_profile(given: str) -> tuple[str | None, str]:
    """`PROFILE/ARM` as the two, a profile alone with an empty arm, anything else with none."""
    head, _, arm = given.rpartition("/")
    for name, rest in ((given, ""), (head, arm)):
        if name in shipped("runs") or name.endswith((".yaml", ".yml")):
            return name, rest
    return None, given


def _arm(profile: Profile, given: str) -> tuple[Profile, str]:
    """The arm that `given` is, and the profile with it where it is an adapter from elsewhere."""
    arms = [BASE, *(a.name for a in profile.finetune.arms), *profile.evaluate.adapters]
    if given in arms:
        return profile, given
    if given in (profile.model.name, profile.model.source):
        return profile, BASE
    if given.startswith("key:"):
        return _of_key(profile, given)
    if Path(given).is_dir():
        path = Path(given).resolve()
        # Folders that PEFT writes are often all called alike; their parents are not.
        called = path.parent.name if path.name == "adapter" else path.name
        return _adopted(profile, called, AdapterSettings(path=given))
    raise unknown_name(
        f"model of profile {profile.name!r} (beside key:<12 hex> and adapter folders)",
        given,
        [profile.model.name, *arms],
    )


def _of_key(profile: Profile, given: str) -> tuple[Profile, str]:
    """A fine-tuning by its key: an arm of the profile, or its adapter as one trained elsewhere."""
    for arm, of_seed in plan_of(profile, until="finetune").pipeline.arms.tuned.items():
        if any(f"key:{step.key}" == given for step in of_seed.values()):
            return profile, arm
    payload = fetch(find_finetuning(given))
    if not (payload / "adapter").is_dir():
        raise UserError(
            f"{given} is a full fine-tuning of another profile: name the profile and its arm"
        )
    method = read_json(payload / "finetune.json")["method"]
    name = given.removeprefix("key:")
    return _adopted(profile, name, AdapterSettings(path=str(payload / "adapter"), method=method))


def _adopted(profile: Profile, called: str, adapter: AdapterSettings) -> tuple[Profile, str]:
    name = re.sub(r"[^A-Za-z0-9_.\-]", "-", called)
    folder = adapter.path
    if name in (BASE, *(a.name for a in profile.finetune.arms), *profile.evaluate.adapters):
        raise UserError(f"{folder}: something else is called {name!r} already; rename the folder")
    return _with(profile, (), None, {name: adapter}), name


def _with(
    profile: Profile,
    benchmarks: Sequence[str],
    limit: int | None,
    adapters: Mapping[str, AdapterSettings],
) -> Profile:
    for name in benchmarks:
        if name not in BENCHMARKS:
            raise unknown_name("benchmark", name, BENCHMARKS)
    evaluate = profile.evaluate.model_copy(
        update={
            "benchmarks": tuple(dict.fromkeys(benchmarks)) or profile.evaluate.benchmarks,
            "adapters": {**profile.evaluate.adapters, **adapters},
            **({} if limit is None else {"limit": limit}),
        }
    )
    return profile.model_copy(update={"evaluate": evaluate})


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
    from flows.show_evaluation import show_evaluation

    target = find_target(given, profile, benchmarks=benchmarks, limit=limit, overrides=overrides)
    planned = plan_of(target.profile, until=target.until)
    if jobs > 1 and refresh.names:
        raise UserError("--jobs computes what is missing: refresh first, or with --jobs 1")
    if jobs > 1:
        _in_processes(planned, target, jobs)
        planned = plan_of(target.profile, until=target.until)
    runs = finished(planned, target.until, refresh)
    show_evaluation(target.profile, measured(planned, target, runs), as_json=as_json)


def _in_processes(planned: ProfilePlan, target: Target, jobs: int) -> None:
    """The trainings first, here; then a process for each model and seed that lacks some.

    Raises:
        CheckError: one failed; what the others finished is cached.
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
        from flows.fan_out import Job, run_jobs

        queue = [
            Job(f"evaluate {name}", profile, target.until, keys, folder / f"evaluate-{keys[0]}.log")
            for name, keys in missing.items()
        ]
        if not all(run_jobs(target.profile.name, "evaluate", queue, jobs)):
            raise CheckError(f"a loss was not finite: see {folder}")


def measured(planned: ProfilePlan, target: Target, runs: Mapping[str, StepRun]) -> list[Measured]:
    """The finished evaluations of the target."""
    found = []
    for step in planned.pipeline.targets(target.until):
        run = runs.get(str(step.key))
        if run is not None:
            names = step.given["names"]
            result = Evaluation.load(fetch(run) / "evaluation.json")
            found.append(Measured(names["arm"], names["seed"], run.key, result))
    return found
