"""Which layers to train: a policy turns a ranking into a `Selection`.

A new policy is one function and one line in `POLICIES`. A selection depends on nothing but the
scores its policy reads, so the ranking it is given may hold just those columns:

    required_datasets(ArmConfig(name="baseline", policy="all"), ("lima", "dolly"))  # ()
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ila_core import agreement
from ila_core.config import ArmConfig, Frozen, SearchConfig
from ila_core.errors import UserError, unknown_name
from ila_core.ranking import Layer, Ranking, kept_count, order

RANDOM_DRAWS = 1000

Details = dict[str, int | float | str]


class Selection(Frozen):
    """The layers to train, and all others frozen; both in layer order."""

    policy: str
    source: str | None
    """Dataset whose scores decided, for policies that read one."""
    train: tuple[str, ...]
    frozen: tuple[str, ...]
    trainable_parameters: int
    """Under LoRA at the rank asked for."""
    details: Details
    """What the policy has to say about its choice, e.g. how far from equal parameters it is."""


@dataclass(frozen=True)
class Request:
    """Everything a policy may look at."""

    arm: ArmConfig
    ranking: Ranking
    search: SearchConfig
    lora_r: int
    like: Selection | None


@dataclass(frozen=True)
class Policy:
    freeze: Callable[[Request], tuple[Collection[str], Details]]
    """Names to freeze, in any order, and details."""
    reads: Literal["nothing", "source", "all"]
    """Whose scores it reads: none, those of `arm.source`, or those of every dataset."""
    settings: tuple[str, ...] = ()
    """Fields of `SearchConfig` that it reads: a change of another leaves its selection alone."""
    needs_like: bool = False
    """Whether it matches another arm's selection."""


def select(
    arm: ArmConfig, ranking: Ranking, search: SearchConfig, lora_r: int, like: Selection | None
) -> Selection:
    """Apply the arm's policy.

    Raises:
        UserError: for an unknown policy or source, or when what the policy needs is missing.
    """
    required_datasets(arm, ranking.datasets)
    policy = POLICIES[arm.policy]
    chosen, details = policy.freeze(Request(arm, ranking, search, lora_r, like))
    frozen = frozenset(chosen)
    train = [layer for layer in ranking.layers if layer.name not in frozen]
    if not train:
        raise UserError(
            f"arm {arm.name!r}: policy {arm.policy!r} freezes all {len(frozen)} layers, so nothing "
            "would train; raise `search.keep` or lower `search.least`"
        )
    return Selection(
        policy=arm.policy,
        source=arm.source if policy.reads == "source" else None,
        train=tuple(layer.name for layer in train),
        frozen=tuple(layer.name for layer in ranking.layers if layer.name in frozen),
        trainable_parameters=lora_parameters(train, lora_r),
        details=details,
    )


def required_datasets(arm: ArmConfig, datasets: Sequence[str]) -> tuple[str, ...]:
    """Datasets, of those searched, whose scores the arm's selection depends on.

    Raises:
        UserError: for an unknown policy, a source that is missing or was not searched, or a
            missing `like:`.
    """
    if arm.policy not in POLICIES:
        raise unknown_name("policy", arm.policy, POLICIES)
    if POLICIES[arm.policy].needs_like and arm.like is None:
        raise UserError(
            f"arm {arm.name!r}: policy {arm.policy!r} matches another arm's trainable parameters; "
            "name that arm, one listed before it, in `like:`"
        )
    reads = POLICIES[arm.policy].reads
    if reads == "nothing":
        return ()
    if reads == "all":
        return tuple(datasets)
    if arm.source is None:
        raise UserError(
            f"arm {arm.name!r}: policy {arm.policy!r} needs `source:`, the dataset whose ranking "
            f"decides: {', '.join(datasets)}"
        )
    if arm.source not in datasets:
        raise unknown_name(f"source of arm {arm.name!r},", arm.source, datasets)
    return (arm.source,)


def lora_parameters(layers: Iterable[Layer], r: int) -> int:
    """Trainable parameters of LoRA at rank r: A is r x in, B is out x r."""
    return sum(r * sum(layer.shape) for layer in layers)


def freeze_nothing(request: Request) -> tuple[Collection[str], Details]:
    """The baseline: every layer trains."""
    return (), {}


def freeze_least_of_source(request: Request) -> tuple[Collection[str], Details]:
    """ILA: the top fraction of one dataset's ranking trains (Eq. 3)."""
    assert request.arm.source is not None
    layers = request.ranking.layers
    kept = kept_count(request.search.keep, len(layers))
    by_score = order(request.ranking.scores(request.arm.source), layers)
    return by_score[kept:], {"keep": request.search.keep}


def freeze_intersection(request: Request) -> tuple[Collection[str], Details]:
    """Freezes what every dataset puts among its least important (Table 9)."""
    found = agreement.intersection(request.ranking, request.search.least)
    return found.frozen, {"least": request.search.least, "size": len(found.frozen)}


def freeze_random(request: Request) -> tuple[Collection[str], Details]:
    """The control (RL in Table 8) at equal parameters: the nearest of many seeded random draws.

    Each draw shuffles the layers and freezes from the front while that brings the number of
    trainable parameters nearer. The matched selection itself is never taken.
    """
    like = request.like
    assert like is not None
    cost = {
        layer.name: lora_parameters([layer], request.lora_r) for layer in request.ranking.layers
    }
    to_freeze = sum(cost.values()) - like.trainable_parameters
    rng = random.Random(request.arm.seed)
    draws = (
        _freeze_up_to(to_freeze, rng.sample(list(cost), len(cost)), cost)
        for _ in range(RANDOM_DRAWS)
    )
    others = [draw for draw in draws if sorted(draw) != sorted(like.frozen)]
    if not others:
        raise UserError(
            f"arm {request.arm.name!r}: {len(cost)} layers leave no selection other than that of "
            f"{request.arm.like!r}; leave this arm out"
        )
    reached, draw = min(
        ((sum(cost.values()) - sum(cost[name] for name in draw), draw) for draw in others),
        key=lambda found: abs(found[0] - like.trainable_parameters),
    )
    wanted = like.trainable_parameters
    return draw, {
        "wanted_parameters": wanted,
        "reached_parameters": reached,
        "difference": reached - wanted,
    }


def _freeze_up_to(budget: int, shuffled: Sequence[str], cost: dict[str, int]) -> list[str]:
    """The longest front of `shuffled`, at least one and never all, that nears the budget."""
    frozen = [shuffled[0]]
    spent = cost[shuffled[0]]
    for name in shuffled[1:-1]:
        if abs(spent + cost[name] - budget) >= abs(spent - budget):
            break
        frozen.append(name)
        spent += cost[name]
    return frozen


POLICIES: dict[str, Policy] = {
    "all": Policy(freeze_nothing, reads="nothing"),
    "ila": Policy(freeze_least_of_source, reads="source", settings=("keep",)),
    "intersection": Policy(freeze_intersection, reads="all", settings=("least",)),
    "freeze_random": Policy(freeze_random, reads="nothing", needs_like=True),
}
