"""Beside the main path: one dataset under several seeds and at milestones (Figures 2, 3 and 4)."""

from __future__ import annotations

from typing import NamedTuple

from ila_core.config import Profile
from ila_core.lock import Lock
from ila_core.paper import MILESTONES, SEEDS
from tasks.step import Step
from tasks.steps import Base, prepare, score, stage1

DATASET = "lima"
"""The paper's; a profile without it is studied on its first dataset."""


class Study(NamedTuple):
    """The scores of one dataset, all from full stage-1 schedules."""

    dataset: str
    milestones: dict[float, Step]
    """Along one stage 1."""
    gate_seeds: dict[int, Step]
    """On one stage 1, with other rows for the scores."""
    search_seeds: dict[int, Step]
    """On a stage 1 each."""

    @property
    def steps(self) -> tuple[Step, ...]:
        columns = (self.milestones, self.gate_seeds, self.search_seeds)
        return tuple(step for column in columns for step in column.values())


def study(profile: Profile, lock: Lock) -> Study:
    """Stage 1 runs its whole schedule here, as the paper's does, stable or not."""
    base = Base.resolve(profile.model, lock)
    search = profile.search
    name = DATASET if DATASET in search.schedules else next(iter(search.schedules))
    data = prepare(base, profile.dataset(name), profile.data, lock)
    on_the_way = tuple(fraction for fraction in MILESTONES if fraction < 1)
    whole = search.stage1.model_copy(
        update={
            "milestones": on_the_way,
            "stability": search.stage1.stability.model_copy(update={"floor": 1.0, "ceiling": 1.0}),
        }
    )
    adapters = {
        seed: stage1(base, data, name, whole, search.schedules[name], seed) for seed in SEEDS
    }

    def scored(seed: int, gate_seed: int, milestone: float | None = None) -> Step:
        return score(
            base, adapters[seed], data, name, search, gate_seed,
            scorer=search.scorer, milestone=milestone,
        )  # fmt: skip

    first = SEEDS[0]
    return Study(
        dataset=name,
        milestones={f: scored(first, first, f) for f in on_the_way} | {1.0: scored(first, first)},
        gate_seeds={seed: scored(first, seed) for seed in SEEDS},
        search_seeds={seed: scored(seed, seed) for seed in SEEDS},
    )
