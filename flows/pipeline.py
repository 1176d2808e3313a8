"""The paper's method as steps. Nothing runs here: keys, plans and runs all come from it."""

from __future__ import annotations

from typing import NamedTuple

from ila_core.config import Profile
from ila_core.lock import Lock
from tasks.step import Step
from tasks.steps import (
    Base,
    agree,
    evaluate,
    finetune,
    prepare,
    rank,
    report,
    select,
    stage1,
    stage2,
)


class Pipeline(NamedTuple):
    """A whole run, by its last steps: what a search gives, and what everything leads to."""

    base: Base
    ranking: Step
    agreement: Step
    report: Step

    def targets(self, until: str) -> tuple[Step, ...]:
        """The steps to finish: all of them, or those of the search."""
        return self[1:] if until == "report" else (self.ranking, self.agreement)


def ila_pipeline(profile: Profile, lock: Lock) -> Pipeline:
    """Find the layers that matter for alignment, then train only those."""
    base = Base.resolve(profile.model, lock)
    search, finetuning = profile.search, profile.finetune

    # 1. Conversations become token rows in disjoint splits: train, gate, held-out.
    data = {d.name: prepare(base, d, profile.data, lock) for d in profile.datasets}

    # 2. LoRA on every layer until the loss is stable, then one learned gate per layer (Eq. 5-7).
    scores: dict[str, dict[int, Step]] = {}
    for name, schedule in search.schedules.items():
        for seed in search.seeds:
            adapter = stage1(base, data[name], name, search.stage1, schedule, seed)
            scores.setdefault(name, {})[seed] = stage2(
                base, adapter, data[name], name, search.stage2, seed
            )

    # 3. One ranking per dataset; do they agree, beyond chance and beyond layer type?
    ranking = rank(base, scores)
    agreement = agree(ranking, search)

    # 4. Freeze the unimportant layers and fine-tune, beside all layers and a random control.
    selections: dict[str, Step] = {}
    tuned: dict[str, dict[int, Step]] = {}
    for arm in finetuning.arms:
        selections[arm.name] = select(base, arm, scores, selections, search, finetuning)
        tuned[arm.name] = {
            seed: finetune(base, selections[arm.name], data[finetuning.dataset], finetuning, seed)
            for seed in finetuning.seeds
        }

    # 5. Held-out evaluation of the base and of every arm, and the page that says what came out.
    evaluated = evaluate(base, tuned, data[finetuning.dataset], profile.evaluate)
    page = report(profile, data, scores, ranking, agreement, selections, tuned, evaluated)
    return Pipeline(base, ranking, agreement, page)
