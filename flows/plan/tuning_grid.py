"""Hyper-parameter search as steps: an arm with other learning rates and lengths (Appendix B).

A trial is what any arm is, selection, fine-tuning and held-out evaluation, so that the grid's point
that the profile already stands at is the profile's own arm, and the search for layers is shared.
"""

from collections.abc import Mapping
from typing import NamedTuple

from ila_core.config import EvaluateConfig, FinetuneConfig, MethodSettings
from ila_core.selection.tune import length
from tasks.cache.step import Step
from tasks.steps.base import Base
from tasks.steps.evaluate.evaluation import evaluate
from tasks.steps.finetune.finetune import finetune


class Trial(NamedTuple):
    arm: str
    method: str
    settings: MethodSettings
    tuned: Mapping[int, Step]
    """The training step of each fine-tuning seed."""
    evaluated: Mapping[int, Step]
    """Held-out loss and no other benchmark: nothing is chosen on what it is later judged by."""

    @property
    def shared(self) -> tuple[Step, ...]:
        """What every trial of this arm starts from."""
        return tuple(step for tuned in self.tuned.values() for step in tuned.inputs.values())

    @property
    def name(self) -> str:
        return f"{self.arm} {self.method} lr {self.settings.lr:g}, {length(self.settings)}"


def trials(
    base: Base, finetuning: FinetuneConfig, selections: Mapping[str, Step], data: Step
) -> tuple[Trial, ...]:
    """Every point of its method's grid for every arm that is tuned and has one.

    Args:
        base: the model.
        finetuning: the grids, and everything else about fine-tuning.
        selections: of the profile's arms; a learning rate changes none.
        data: that the arms are trained and evaluated on.
    """
    if finetuning.tune is None:
        return ()
    found = []
    for arm in finetuning.arms:
        method = finetuning.method_of(arm)
        grid = finetuning.tune.grids.get(method)
        if arm.name in finetuning.tune.arms and grid is not None:
            for point in grid.points():
                settings = finetuning.settings_of(arm).model_copy(update=point)
                changed = finetuning.model_copy(update={method: settings})
                found.append(_trial(base, changed, arm.name, selections[arm.name], data))
    return tuple(found)


def _trial(base: Base, finetuning: FinetuneConfig, arm: str, selection: Step, data: Step) -> Trial:
    config = selection.given["arm"]
    settings = finetuning.settings_of(config)
    tuned = {seed: finetune(base, selection, data, finetuning, seed) for seed in finetuning.seeds}
    steps = evaluate(base, {arm: tuned}, data, _HELD_OUT)
    evaluated = {s.given["names"]["seed"]: s for s in steps if "adapter" in s.inputs}
    trial = Trial(arm, finetuning.method_of(config), settings, tuned, evaluated)
    for seed in finetuning.seeds:  # beside each other in logs and plans
        tuned[seed].label = f"finetune {trial.name} seed {seed}"
        evaluated[seed].label = f"held_out_loss {trial.name} seed {seed}"
    return trial


_HELD_OUT = EvaluateConfig(
    benchmarks=("held_out_loss",), against="all", resamples=100, confidence=0.95
)
