"""The evidence for a ranking: mask curves and positive controls, off the main path."""

from collections.abc import Mapping

from ila_core.config import SearchConfig
from tasks.cache.step import Step
from tasks.steps.base import Base
from tasks.steps.search.control import control
from tasks.steps.search.mask import mask
from tasks.steps.search.score import score

Steps = Mapping[str, Step]
StepsOfSeeds = Mapping[str, Mapping[int, Step]]
"""Dataset and search seed to a step."""


def evidence(base: Base, data: Steps, adapters: StepsOfSeeds, search: SearchConfig) -> list[Step]:
    """Describe the mask curves of each dataset's first adapter, and the scores that they need."""
    steps: list[Step] = []
    seed = search.seeds[0]
    for name, of_seed in adapters.items():
        columns = {
            scorer: score(base, of_seed[seed], data[name], name, search, seed, scorer=scorer)
            for scorer in dict.fromkeys((search.scorer, *search.evidence.scorers))
        }
        steps += columns.values()
        steps.append(mask(base, of_seed[seed], data[name], columns, name, search, seed))
    return steps


def controls(
    base: Base, data: Steps, adapters: StepsOfSeeds, search: SearchConfig
) -> tuple[Step, ...]:
    """Describe the positive controls, which plant noise in each dataset's first adapter."""
    seed = search.seeds[0]
    return tuple(
        control(base, of_seed[seed], data[name], name, search, seed, draw)
        for name, of_seed in adapters.items()
        for draw in search.control.seeds
    )
