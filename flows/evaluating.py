"""`ila evaluate`: a run's arms, an adapter or the base on any benchmark, each computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.run import ProfilePlan, finished, plan_of
from flows.stored import find_finetuning
from ila_core.benchmarks import BENCHMARKS
from ila_core.benchmarks.result import Evaluation
from ila_core.config import BASE, Profile
from ila_core.errors import UserError, unknown_name
from ila_core.profiles import load_profile, shipped
from tasks.lookup import StepRun
from tasks.payloads import fetch

GIVEN = "given"
"""The name of an adapter that a command was given."""


@dataclass(frozen=True)
class Target:
    """What is to be evaluated: a profile with its settings, and which of its arms."""

    profile: Profile
    arms: tuple[str, ...]
    """None: all of them, and the base."""

    @property
    def until(self) -> str:
        return "+".join(f"evaluate={arm}" for arm in self.arms) or "evaluate"


@dataclass(frozen=True)
class Measured:
    """One evaluation of one model."""

    arm: str
    seed: int | None
    key: str
    result: Evaluation


def find_target(
    given: str,
    profile: str | None,
    *,
    benchmarks: Sequence[str],
    limit: int | None,
    overrides: Sequence[str],
) -> Target:
    """What `given` names: PROFILE, PROFILE/ARM, ARM, key:..., an adapter's folder, a base model.

    Args:
        given: by itself a profile's, or something that `profile` says more about.
        profile: whose settings, and whose base model, count.
        benchmarks: in place of the profile's own.
        limit: questions per task.
        overrides: fields of the profile to change.

    Raises:
        UserError: nothing answers to it, or an adapter or a model came without a profile.
    """
    head, _, arm = given.rpartition("/")
    if profile is None and head and (head in shipped("runs") or head.endswith((".yaml", ".yml"))):
        return find_target(arm, head, benchmarks=benchmarks, limit=limit, overrides=overrides)
    if profile is None:
        if given in shipped("runs") or given.endswith((".yaml", ".yml")):
            return Target(_with(load_profile(given, overrides), benchmarks, limit, {}), ())
        if given.startswith("key:") or Path(given).exists() or given in shipped("models"):
            raise UserError(
                f"{given}: give --profile as well, which says how it is evaluated and, of an "
                "adapter, what its base model is"
            )
        load_profile(given)  # which says what there is
    assert profile is not None
    loaded = load_profile(profile, overrides)
    arms = [a.name for a in loaded.finetune.arms]
    if given in (BASE, *arms):
        return Target(_with(loaded, benchmarks, limit, {}), (given,))
    if given in (loaded.model.name, loaded.model.source):
        return Target(_with(loaded, benchmarks, limit, {}), (BASE,))
    if given.startswith("key:"):
        return _of_key(loaded, given, benchmarks, limit)
    if Path(given).is_dir():
        return Target(_with(loaded, benchmarks, limit, {GIVEN: given}), (GIVEN,))
    raise unknown_name(
        f"model to evaluate, beside key:<12 hex> and adapter folders, in {profile}",
        given,
        [BASE, loaded.model.name, *arms],
    )


def _of_key(profile: Profile, given: str, benchmarks: Sequence[str], limit: int | None) -> Target:
    """A fine-tuning by its key: an arm of the profile, or its adapter as one trained elsewhere."""
    changed = _with(profile, benchmarks, limit, {})
    for arm, of_seed in plan_of(changed, until="finetune").pipeline.arms.tuned.items():
        if any(f"key:{step.key}" == given for step in of_seed.values()):
            return Target(changed, (arm,))
    folder = fetch(find_finetuning(given)) / "adapter"
    if not folder.is_dir():
        raise UserError(
            f"{given} is a full fine-tuning of another profile: name the profile and its arm"
        )
    return Target(_with(profile, benchmarks, limit, {GIVEN: str(folder)}), (GIVEN,))


def _with(
    profile: Profile, benchmarks: Sequence[str], limit: int | None, adapters: dict[str, str]
) -> Profile:
    for name in benchmarks:
        if name not in BENCHMARKS:
            raise unknown_name("benchmark", name, BENCHMARKS)
    evaluate = profile.evaluate.model_copy(
        update={
            "benchmarks": tuple(benchmarks) or profile.evaluate.benchmarks,
            "adapters": {**profile.evaluate.adapters, **adapters},
            **({} if limit is None else {"limit": limit}),
        }
    )
    return profile.model_copy(update={"evaluate": evaluate})


def run_evaluate(
    given: str,
    profile: str | None,
    *,
    benchmarks: Sequence[str],
    limit: int | None,
    overrides: Sequence[str],
    refresh: Sequence[str],
    as_json: bool,
) -> None:
    """Compute what is missing and show every benchmark of every model."""
    from flows.show_evaluation import show_evaluation

    target = find_target(given, profile, benchmarks=benchmarks, limit=limit, overrides=overrides)
    planned = plan_of(target.profile, until=target.until)
    runs = finished(planned, target.until, refresh)
    show_evaluation(
        target.profile,
        measured(planned, target, runs),
        as_json=as_json,
    )


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
