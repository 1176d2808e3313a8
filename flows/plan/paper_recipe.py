"""The paper's whole recipe on every dataset and several seeds, off the main path.

It trains the whole stage-1 schedule, then gates on the rows of stage 1. `ila reproduce` shows its
results, and `benchmarks/search_cost.py` compares a cheaper search with it.
"""

from collections.abc import Mapping
from typing import NamedTuple

from flows.plan.evidence import Steps, StepsOfSeeds
from ila_core.config import Profile
from ila_core.report.paper.published import DATASET, GATE_BATCHES, MILESTONES, SEEDS
from ila_core.search.scorers import ILA
from tasks.cache.step import Step, relabel
from tasks.steps.base import Base
from tasks.steps.search.mask import mask
from tasks.steps.search.score import score
from tasks.steps.search.stage1 import stage1


class Study(NamedTuple):
    adapters: StepsOfSeeds
    """Stage 1 by dataset and search seed."""
    scores: StepsOfSeeds
    """Stage 2 by dataset and search seed."""
    gate_seeds: StepsOfSeeds
    """Stage 2 by dataset and gate seed, on the first search seed's stage 1."""
    dataset: str
    milestones: Mapping[float, Step]
    """Stage 2 at milestones of the stage 1 of `dataset`: the paper's, or a profile's first."""
    masks: Steps
    """Mask curves, on the recipe's adapter, of the recipe's order and the profile's own."""

    def targets(self) -> dict[str, tuple[Step, ...]]:
        """Return the steps of each table and figure, and of the `comparison` with the search."""
        scored = _flat(self.scores)
        milestones = tuple(self.milestones.values())
        return {
            "table2": scored,
            "fig1": scored,
            "fig2": milestones,
            "fig3": (*scored, *_flat(self.gate_seeds)),
            "fig4": milestones,
            "comparison": (*scored, *_flat(self.gate_seeds), *self.masks.values()),
        }


def study(profile: Profile, base: Base, data: Steps, own_scores: StepsOfSeeds) -> Study:
    """Describe the paper's recipe with this profile's model, data and settings."""
    on_the_way = tuple(fraction for fraction in MILESTONES if fraction < 1)
    stability = profile.search.stage1.stability.model_copy(update={"floor": 1.0, "ceiling": 1.0})
    whole = {"milestones": on_the_way, "stability": stability, "ranking_stop": None}
    search = profile.search.model_copy(
        update={
            "stage1": profile.search.stage1.model_copy(update=whole),
            "stage2": profile.search.stage2.model_copy(
                update={"rows": "train", "batches": GATE_BATCHES}
            ),
            "scorer": ILA,
        }
    )
    adapters = {
        name: {
            seed: stage1(base, data[name], name, search, schedule, seed) for seed in search.seeds
        }
        for name, schedule in search.schedules.items()
    }
    first = search.seeds[0]

    def gates(name: str, seed: int, gate_seed: int, milestone: float | None = None) -> Step:
        return score(
            base, adapters[name][seed], data[name], name, search, gate_seed,
            scorer=ILA, milestone=milestone,
        )  # fmt: skip

    name = DATASET if DATASET in adapters else next(iter(adapters))
    scores = {d: {seed: gates(d, seed, seed) for seed in search.seeds} for d in adapters}
    found = Study(
        adapters=adapters,
        scores=scores,
        gate_seeds={d: {seed: gates(d, first, seed) for seed in SEEDS} for d in adapters},
        dataset=name,
        milestones={f: gates(name, first, first, f) for f in on_the_way}
        | {1.0: gates(name, first, first)},
        masks={
            d: mask(
                base,
                adapters[d][first],
                data[d],
                {ILA: scores[d][first], "own": own_scores[d][first]},
                d,
                search,
                first,
            )
            for d in adapters
        },
    )
    known = [*data.values(), *_flat(own_scores)]
    relabel(
        [step for steps in found.targets().values() for step in steps],
        " of the paper's recipe",
        but=known,
    )
    return found


def _flat(steps: StepsOfSeeds) -> tuple[Step, ...]:
    return tuple(step for of_seed in steps.values() for step in of_seed.values())
