"""The arguments of `ila evaluate`, `compare` and `decide`: models, and a profile."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flows.plan.finished import find_finetuning
from flows.results.profile_plan import plan_of
from ila_core.config import BASE, AdapterSettings, Profile
from ila_core.config.load import load_profile, shipped
from ila_core.errors import UserError, unknown_name
from ila_core.evaluate.benchmarks import BENCHMARKS
from ila_core.evaluate.judged import Judged
from tasks.cache.payloads import fetch, read_json


@dataclass(frozen=True)
class Target:
    """The models to evaluate: a profile with its settings, and some of its arms."""

    profile: Profile
    asked: tuple[tuple[str, ...], ...]
    """The arms that each argument names."""
    name: str
    """The profile's name as it was given."""

    @property
    def arms(self) -> tuple[str, ...]:
        """All arms of `asked`, each once."""
        return tuple(dict.fromkeys(arm for arms in self.asked for arm in arms))

    @property
    def until(self) -> str:
        return "+".join(f"evaluate={arm}" for arm in self.arms)

    def measured_by(self, benchmarks: Sequence[str]) -> Target:
        """Return this target with other benchmarks."""
        return replace(self, profile=_with(self.profile, benchmarks, None))


def find_target(
    given: Sequence[str],
    profile: str | None,
    *,
    benchmarks: Sequence[str] = (),
    limit: int | None = None,
    overrides: Sequence[str] = (),
) -> Target:
    """Find the models that `given` names: PROFILE, PROFILE/ARM, ARM, key:..., an adapter's folder,
    a base model, or another model's answers.

    Args:
        given: one or several arguments, all of one base model.
        profile: gives the settings and the base model; by default the one that `given` names.
        benchmarks: replace the profile's own.
        overrides: values for fields of the profile.

    Raises:
        UserError: when an argument names nothing, or an adapter or model lacks a profile.
    """
    parts = [_of_profile(x) for x in given]
    named = {head for head, _ in parts if head is not None} | ({profile} - {None})
    if len(named) > 1:
        raise UserError(f"give things of one profile, not of {', '.join(sorted(map(str, named)))}")
    if not named:
        if all(g.startswith("key:") or Path(g).exists() or g in shipped("models") for g in given):
            raise UserError(
                f"{given[0]}: give --profile as well, which names the benchmarks' settings and the "
                f"base model, for example: ila evaluate {given[0]} --profile demo "
                + _example(given[0])
            )
        load_profile(given[0])  # which says what there is
    (chosen,) = named
    loaded = _with(load_profile(str(chosen), overrides), benchmarks, limit)
    asked: list[tuple[str, ...]] = []
    for head, rest in parts:
        if head is not None and rest == "":
            asked.append(_models(loaded))
        else:
            loaded, arm = _arm(loaded, rest)
            asked.append((arm,))
    return Target(loaded, tuple(asked), str(chosen))


def _of_profile(given: str) -> tuple[str | None, str]:
    """Split `PROFILE/ARM`; a profile alone has the arm "", anything else the profile `None`."""
    head, _, arm = given.rpartition("/")
    for name, rest in ((given, ""), (head, arm)):
        if name in shipped("runs") or name.endswith((".yaml", ".yml")):
            return name, rest
    return None, given


def _arm(profile: Profile, given: str) -> tuple[Profile, str]:
    """Return the arm that `given` names, and the profile, with the arm added if it is new."""
    if given in _models(profile):
        return profile, given
    source = profile.model.source
    if given in (profile.model.name, source):
        return profile, BASE
    if given.startswith("key:"):
        return _of_key(profile, given)
    if _is_base(Path(given)):
        if profile.model.local and Path(given).resolve() == Path(source).expanduser().resolve():
            return profile, BASE
        raise UserError(
            f"{given} is a base model, and that of profile {profile.name!r} is {source}. To "
            "evaluate it with this profile's settings, add --set model.source="
            f"{Path(given).resolve()}; where its architecture is not that of "
            f"{profile.model.name!r}, give a profile whose `model:` describes it"
        )
    if Path(given).is_dir():
        path = Path(given).resolve()
        # Folders that PEFT writes are often all called alike; their parents are not.
        called = path.parent.name if path.name == "adapter" else path.name
        return _adopted(profile, called, AdapterSettings(path=given))
    if given.endswith(".jsonl"):
        return _answering(profile, given)
    raise unknown_name(
        f"model of profile {profile.name!r} (beside key:<12 hex>, folders and answers.jsonl)",
        given,
        [profile.model.name, *_models(profile)],
    )


def _example(given: str) -> str:
    """Return options of an example command that would evaluate `given`."""
    if given.endswith(".jsonl"):
        return "--benchmarks mt_bench --set 'evaluate.mt_bench={questions: FILE}'"
    options = "--benchmarks mmlu --set evaluate.mmlu.path=FOLDER"
    if _is_base(Path(given)):
        options += f" --set model.source={Path(given).resolve()}"
    return options


def _is_base(folder: Path) -> bool:
    return (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file()


def _of_key(profile: Profile, given: str) -> tuple[Profile, str]:
    """Find a fine-tuning by key: an arm of the profile, or else an adapter added to it."""
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
    name = _new_name(profile, called, adapter.path)
    adapters = {**profile.evaluate.adapters, name: adapter}
    return _evaluating(profile, adapters=adapters), name


def _answering(profile: Profile, path: str) -> tuple[Profile, str]:
    """Add another model by its file of answers, which only a judged benchmark can measure."""
    if not any(isinstance(BENCHMARKS[name], Judged) for name in profile.evaluate.benchmarks):
        judged = [name for name, benchmark in BENCHMARKS.items() if isinstance(benchmark, Judged)]
        raise UserError(
            f"{path} holds answers, which {', '.join(profile.evaluate.benchmarks)} cannot measure: "
            f"give --benchmarks {' or '.join(judged)}, whose questions they answer"
        )
    name = _new_name(profile, Path(path).stem, path)
    return _evaluating(profile, answers={**profile.evaluate.answers, name: path}), name


def _new_name(profile: Profile, called: str, path: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_.\-]", "-", called)
    if name in _models(profile):
        raise UserError(f"{path}: something else is called {name!r} already; rename it")
    return name


def _models(profile: Profile) -> tuple[str, ...]:
    """Return the names of all models that a profile can evaluate."""
    arms = (a.name for a in profile.finetune.arms)
    return (BASE, *arms, *profile.evaluate.adapters, *profile.evaluate.answers)


def _with(profile: Profile, benchmarks: Sequence[str], limit: int | None) -> Profile:
    for name in benchmarks:
        if name not in BENCHMARKS:
            raise unknown_name("benchmark", name, BENCHMARKS)
    chosen = tuple(dict.fromkeys(benchmarks)) or profile.evaluate.benchmarks
    limited = profile.evaluate.limit if limit is None else limit
    return _evaluating(profile, benchmarks=chosen, limit=limited)


def _evaluating(profile: Profile, **changed: Any) -> Profile:
    evaluate = profile.evaluate.model_copy(update=changed)
    return profile.model_copy(update={"evaluate": evaluate})
