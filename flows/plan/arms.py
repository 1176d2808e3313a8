"""The arms of one fine-tuning: the steps of their selections, trainings and evaluations."""

from collections.abc import Mapping
from typing import NamedTuple

from flows.plan.evidence import Steps, StepsOfSeeds
from ila_core.config import EvaluateConfig, FinetuneConfig, SearchConfig
from ila_core.errors import unknown_name
from ila_core.evaluate.judged import Judged
from ila_core.search.ranking_reference import ResolvedRanking
from tasks.cache.step import Step
from tasks.steps.base import Base
from tasks.steps.evaluate.evaluation import evaluate
from tasks.steps.evaluate.pairwise import pair
from tasks.steps.finetune.adapter import adopt
from tasks.steps.finetune.finetune import finetune
from tasks.steps.finetune.selection import select


class Arms(NamedTuple):
    selections: Mapping[str, Step]
    """The selection step of each arm."""
    tuned: StepsOfSeeds
    """The fine-tuning step by arm and seed."""
    evaluated: tuple[Step, ...]
    """Evaluations of the base, of every arm and seed, and of adapters trained elsewhere."""

    def evaluations(self, arm: str) -> tuple[Step, ...]:
        """Return the evaluations of one arm, of the base or of an adapter.

        Raises:
            UserError: when there is no such model.
        """
        found = tuple(s for s in self.evaluated if s.given["names"]["arm"] == arm)
        if not found:
            raise unknown_name("arm", arm, {s.given["names"]["arm"] for s in self.evaluated})
        return found

    def pairs(self, arm: str, against: str) -> tuple[Step, ...]:
        """Return the pairwise comparisons of two arms, per seed and judged benchmark.

        Raises:
            UserError: when there is no such arm.
        """
        return tuple(
            pair(a, b)
            for a in self.evaluations(arm)
            for b in self.evaluations(against)
            if isinstance(a.given["benchmark"], Judged)
            and a.given["benchmark"] is b.given["benchmark"]
            and _same_seed(a.given["names"]["seed"], b.given["names"]["seed"])
        )

    @property
    def alike(self) -> dict[str, str]:
        """Arms that train what an earlier one does, in the same steps, and that one."""
        first: dict[tuple[str | None, ...], str] = {}
        keys = {arm: tuple(step.key for step in of.values()) for arm, of in self.tuned.items()}
        known = {arm: found for arm, found in keys.items() if None not in found}
        return {
            arm: other for arm, found in known.items()
            if (other := first.setdefault(found, arm)) != arm
        }  # fmt: skip

    @property
    def steps(self) -> tuple[Step, ...]:
        trained = [step for of_seed in self.tuned.values() for step in of_seed.values()]
        return (*self.selections.values(), *trained, *self.evaluated)


def _same_seed(a: int | None, b: int | None) -> bool:
    """Return whether seeds match; `None`, of the base and given adapters, matches every seed."""
    return None in (a, b) or a == b


def train_arms(
    base: Base,
    data: Steps,
    scores: StepsOfSeeds | ResolvedRanking,
    search: SearchConfig,
    finetuning: FinetuneConfig,
    evaluation: EvaluateConfig,
) -> Arms:
    """Describe the selection, training and evaluation of each arm, from a search or a ranking."""
    own = data[finetuning.dataset]
    selections: dict[str, Step] = {}
    tuned: dict[str, dict[int, Step]] = {}
    for arm in finetuning.arms:
        selection = select(base, arm, scores, selections, search, finetuning, own)
        selections[arm.name] = selection
        tuned[arm.name] = {
            seed: finetune(base, selection, own, finetuning, seed) for seed in finetuning.seeds
        }
    others = {
        name: {0: adopt(base, name, adapter)} for name, adapter in evaluation.adapters.items()
    }
    evaluated = evaluate(base, {**tuned, **others}, own, evaluation)
    return Arms(selections, tuned, tuple(evaluated))
