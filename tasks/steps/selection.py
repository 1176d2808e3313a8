"""Which layers an arm trains. Its key holds only the scores that its policy reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ila_core.config import ArmConfig, FinetuneConfig, FullMethod, MethodSettings, SearchConfig
from ila_core.policies import POLICIES
from ila_core.selection import Selection, reads_keep, required_datasets
from ila_core.selection import select as apply_policy
from tasks.step import Context, Step
from tasks.steps.base import Base
from tasks.steps.payload import write_json
from tasks.steps.ranking import Scores, gather, score_inputs

VERSION = 2


def select(
    base: Base,
    arm: ArmConfig,
    scores: Scores,
    earlier: Mapping[str, Step],
    search: SearchConfig,
    finetuning: FinetuneConfig,
) -> Step:
    """The selection of one arm; a dataset that its policy does not read cannot change it."""
    inputs = score_inputs(scores, list(required_datasets(arm, list(scores))))
    method = finetuning.settings_of(arm)
    read = [*POLICIES[arm.policy].settings, *(["keep"] if reads_keep(arm) else [])]
    if arm.like is not None:
        inputs["like"] = earlier[arm.like]
    return Step(
        "selection",
        label=f"selection {arm.name}",
        version=VERSION,
        identity=base.identify(
            "lm_head",
            architecture=base.config.architecture,
            arm=arm.model_dump(exclude={"name", "like", "method"}, exclude_defaults=True),
            settings={field: getattr(search, field) for field in read},
            counted_by=_counted_by(method),
        ),
        inputs=inputs,
        given={"base": base, "arm": arm, "search": search, "method": method},
    )


def _counted_by(method: MethodSettings) -> dict[str, int] | str:
    """What a layer's parameters under a method depend on, beside its shape."""
    if isinstance(method, FullMethod):
        return "weights"
    return method.model_dump(include={"r", "initial_r"})


def compute(step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
    given = step.given
    like = load(inputs["like"]) if "like" in inputs else None
    selection = apply_policy(
        given["arm"], gather(step, inputs), given["search"], given["method"], like
    )
    write_json(out / "selection.json", selection.model_dump(mode="json"))


def load(payload: Path) -> Selection:
    """The selection in a payload folder."""
    return Selection.model_validate_json((payload / "selection.json").read_bytes())
