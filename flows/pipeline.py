"""The paper's method as steps. Nothing runs here: keys, plans and runs all come from it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from flows.plan.arms import Arms, train_arms
from flows.plan.completed import completed
from flows.plan.evidence import StepsOfSeeds, controls, evidence
from flows.plan.paper_recipe import Study, study
from flows.plan.paper_tables import TABLES, table_arms
from flows.plan.tuning_grid import Trial, trials
from ila_core.config import Profile
from ila_core.errors import UserError, unknown_name
from ila_core.resolve import Lock
from ila_core.search.ranking_fit import fit
from ila_core.search.ranking_reference import ResolvedRanking
from tasks.cache.step import Step, in_order
from tasks.steps.base import Base
from tasks.steps.data.prepare import prepare
from tasks.steps.evaluate.report import report
from tasks.steps.search.agreement import agree
from tasks.steps.search.ranking import rank
from tasks.steps.search.score import score
from tasks.steps.search.stage1 import stage1

MODEL_ALONE = "model"
"""Stands where a dataset's name does for scores that read none."""


class Pipeline(NamedTuple):
    """A whole run, by its last steps: what a search gives, and what everything leads to."""

    profile: Profile
    """Complete: every default that the model or the data decide is filled in."""
    base: Base
    data: Mapping[str, Step]
    """Prepared conversations by dataset."""
    adapters: StepsOfSeeds
    scores: StepsOfSeeds
    ranking: Step
    agreement: Step
    evidence: tuple[Step, ...]
    """Every scorer's scores and their mask curves."""
    arms: Arms
    report: Step | None
    """The page of a run; a search of the model alone has none."""
    controls: tuple[Step, ...]
    """Beside the main path: noise planted in each dataset's adapter, to be found by the search."""
    study: Study
    """Beside the main path: the paper's whole recipe, under several seeds."""
    given: ResolvedRanking | None
    """What fine-tuning reads in place of the search's own, found to fit."""

    def targets(self, until: str) -> tuple[Step, ...]:
        """The steps to finish for `until`: one of these names, or several joined by `+`.

        `evaluate=ARM` are the evaluations of one arm, of `base` or of an adapter; `trained=ARM` are
        its fine-tunings, of which the other two have none; `pairwise=A:B` their answers compared.

        Raises:
            UserError: a name that is none of them.
        """
        search = (self.ranking, self.agreement)
        if self.report is None:
            if until != "search":
                raise UserError(
                    "a search of the model alone ends with its ranking: give data (--data, "
                    "`datasets:`) to fine-tune, or plan --until search"
                )
            return search
        ends = {
            "report": (*search, self.report),
            "search": search,
            "finetune": self.arms.steps,
            "evaluate": self.arms.evaluated,
            "evidence": (*search, *self.evidence),
            "control": self.controls,
            "tune": tuple(step for trial in self.trials for step in trial.evaluated.values()),
            "before-tune": tuple(step for trial in self.trials for step in trial.shared),
            **self.study.targets(),
        }
        wanted = until.split("+")
        for name in wanted:
            kind, _, arm = name.partition("=")
            if kind == "evaluate" and arm:
                ends[name] = self.arms.evaluations(arm)
            elif kind == "trained" and arm:
                ends[name] = tuple(self.arms.tuned.get(arm, {}).values())
            elif kind == "pairwise" and arm:
                ends[name] = self.arms.pairs(*arm.split(":"))
            if name not in (*ends, *TABLES):
                raise unknown_name("target", name, [*ends, *TABLES])
        steps = [step for name in wanted if name in ends for step in ends[name]]
        for arms in self.tables([name for name in wanted if name in TABLES]).values():
            steps += arms.steps
        return tuple(steps)

    def steps(self, until: str) -> list[Step]:
        """All that `targets` need, inputs before users.

        The datasets' rows come first: what is wrong with one is said before anything is trained.
        """
        return sorted(in_order(*self.targets(until)), key=lambda step: step.name != "prepare")

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Learning rates and lengths of fine-tuning, to choose from."""
        finetuning = self.profile.finetune
        data = self.data[finetuning.dataset]
        return trials(self.base, finetuning, self.arms.selections, data)

    def tables(self, names: Sequence[str]) -> dict[str, Arms]:
        """What Tables 1 and 3 to 11 need, by the paper's dataset."""
        return table_arms(names, self.profile, self.base, self.data, self.scores)


def ila_pipeline(profile: Profile, lock: Lock, given: ResolvedRanking | None = None) -> Pipeline:
    """Find the layers that matter for alignment, then train only those.

    Args:
        profile: the run.
        lock: what its names resolve to.
        given: a ranking that was made elsewhere; fine-tuning reads it in place of the search's.
    """
    profile = completed(profile, lock)
    base = Base.resolve(profile.model, lock)
    if given is not None:
        given = fit(given, profile.model, base.files, base.layers)
    search = profile.search
    if not profile.datasets:
        return _of_the_model_alone(profile, base, given)

    # 1. Conversations become token rows in disjoint splits: train, gate, held-out.
    trained_on = profile.finetune.mixed
    data = {d.name: prepare(base, [d], profile.data, lock) for d in profile.datasets}
    if len(trained_on) > 1:
        mixed = [profile.dataset(name) for name in trained_on]
        data[profile.finetune.dataset] = prepare(base, mixed, profile.data, lock)

    # 2. LoRA on every layer until the loss is stable, then one score per layer: that of a gate
    #    learned on the frozen update (Eq. 5-7), or another scorer's.
    adapters = {
        name: {
            seed: stage1(base, data[name], name, search, schedule, seed) for seed in search.seeds
        }
        for name, schedule in search.schedules.items()
    }
    scores = {
        name: {
            seed: score(base, adapter, data[name], name, search, seed, scorer=search.scorer)
            for seed, adapter in of_seed.items()
        }
        for name, of_seed in adapters.items()
    }

    # 3. One ranking per dataset; do they agree, beyond chance and beyond layer type? Do they mean
    #    anything: what does closing the lowest layers cost, beside other scorers and random orders?
    ranking = rank(base, scores, search)
    agreement = agree(ranking, search)
    shown = evidence(base, data, adapters, search)

    # 4. Freeze the unimportant layers and fine-tune, beside all layers and a random control; then
    #    held-out evaluation of the base and of every arm, and the page that says what came out.
    arms = train_arms(base, data, given or scores, search, profile.finetune, profile.evaluate)
    results = [*data.values(), *_flat(adapters), *_flat(scores), *shown, *arms.steps]
    page = report(profile, ranking, agreement, results)

    planted = controls(base, data, adapters, search)
    whole = study(profile, base, data, scores)
    return Pipeline(
        profile, base, data, adapters, scores, ranking, agreement, tuple(shown), arms, page,
        planted, whole, given,
    )  # fmt: skip


def _of_the_model_alone(profile: Profile, base: Base, given: ResolvedRanking | None) -> Pipeline:
    """The search by a scorer that reads no data; nothing is fine-tuned without."""
    search = profile.search
    alone = {
        seed: score(base, None, None, MODEL_ALONE, search, seed, scorer=search.scorer)
        for seed in search.seeds
    }
    ranking = rank(base, {MODEL_ALONE: alone}, search)
    agreement = agree(ranking, search)
    return Pipeline(
        profile, base, {}, {}, {MODEL_ALONE: alone}, ranking, agreement, (), Arms({}, {}, ()), None,
        (), Study({}, {}, {}, MODEL_ALONE, {}, {}), given,
    )  # fmt: skip


def _flat(steps: StepsOfSeeds) -> list[Step]:
    return [step for of_seed in steps.values() for step in of_seed.values()]
