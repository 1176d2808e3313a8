"""How a ranking, or a control, decides which layers train: a policy is a function and a line.

A policy depends on nothing but what it reads: the scores of no dataset, of one, or of all.
"""

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from ila_core.config import AdaLoraMethod, ArmConfig, LoraMethod, MethodSettings
from ila_core.config.finetune import per_rank
from ila_core.errors import UserError
from ila_core.models.layers import Layer
from ila_core.search import agreement
from ila_core.search.ranking import Ranking, kept_count, order
from ila_core.selection.selection import Details, Selection
from ila_core.train.forecast import Forecast

RANDOM_DRAWS = 1000


class Fractions(Protocol):
    """What a policy may read of a search; `SearchConfig` has both."""

    @property
    def keep(self) -> float: ...

    @property
    def least(self) -> float: ...


@dataclass(frozen=True)
class Request:
    """Everything a policy may look at."""

    arm: ArmConfig
    ranking: Ranking
    search: Fractions
    method: MethodSettings
    like: Selection | None
    forecast: Forecast | None
    """Known where `arm.memory` or `arm.seconds` asks for it."""

    @property
    def layers(self) -> Sequence[Layer]:
        return self.ranking.layers

    @property
    def parameters(self) -> dict[str, int]:
        """The number of parameters that each layer trains under the arm's method."""
        return {layer.name: self.method.parameters(layer.shape) for layer in self.layers}

    def by_score(self) -> list[str]:
        """The layers by the source's score, most important first."""
        assert self.arm.source is not None
        return order(self.ranking.scores(self.arm.source), self.layers)


@dataclass(frozen=True)
class Choice:
    train: Collection[str]
    """The layers to train, in any order."""
    details: Details = field(default_factory=dict)
    """What is worth saying about it, e.g. how far from equal parameters it is."""
    ranks: Mapping[str, int] | None = None
    """LoRA's rank by layer, where it is not everywhere the method's."""
    rates: Mapping[str, float] | None = None
    """Factor on the learning rate by layer, where it is not 1."""


@dataclass(frozen=True)
class Policy:
    choose: Callable[[Request], Choice]
    reads: Literal["nothing", "source", "all"]
    """Whose scores it reads: none, those of `arm.source`, or those of every dataset."""
    limits: tuple[str, ...] = ()
    """Limits of an arm that it heeds; the first is `search.keep` where the arm has none."""
    settings: tuple[str, ...] = ()
    """Fields of `SearchConfig` that it reads: a change of another leaves its selection alone."""
    needs_like: bool = False
    """Whether it matches another arm's selection."""


@dataclass(frozen=True)
class Limit:
    """What a selection may take at most, and how much one takes."""

    field: str
    most: float
    of: Callable[[Sequence[str]], float]

    def fill(self, names: Sequence[str]) -> Choice:
        """Take layers in the order given, each that still fits.

        Raises:
            UserError: not even one of them fits.
        """
        taken: list[str] = []
        for name in names:
            if self.of([*taken, name]) <= self.most:
                taken.append(name)
        if not taken:
            least = min(self.of([name]) for name in names)
            raise UserError(
                f"no layer fits into {self.field} {_number(self.most)}: the least that one takes "
                f"is {_number(least)}; give at least that"
            )
        return Choice(taken, {self.field: self.most})


def limit_of(request: Request) -> Limit:
    """Return the arm's limit; `search.keep` where it has none."""
    (name, most), *_ = (request.arm.limits or {"keep": request.search.keep}).items()
    if name == "keep":
        kept = kept_count(most, len(request.layers))
        return Limit("layers", kept, len)
    if name == "layers":
        return Limit("layers", most, len)
    if name == "parameters":
        cost = request.parameters
        return Limit("parameters", most, lambda names: sum(cost[n] for n in names))
    assert request.forecast is not None, "memory and seconds are forecast before a selection"
    measure = request.forecast.memory if name == "memory" else request.forecast.seconds
    return Limit(name, most, measure)


def everything(request: Request) -> Choice:
    """The baseline: every layer trains."""
    return Choice([layer.name for layer in request.layers])


def most_important(request: Request) -> Choice:
    """ILA: the layers of one dataset's highest scores train (Eq. 3)."""
    return limit_of(request).fill(request.by_score())


def least_important(request: Request) -> Choice:
    """The reversed control: as much trains as under `ila`, but from the bottom."""
    return limit_of(request).fill(request.by_score()[::-1])


def most_per_cost(request: Request) -> Choice:
    """Select the most score under a limit, greedily by score per unit of what the limit counts.

    A gate that learning closed further (a score below where gates start) says that the update
    does harm; such layers come last, whatever they cost.
    """
    assert request.arm.source is not None
    scores = request.ranking.scores(request.arm.source)
    if request.like is not None:
        cost = request.parameters
        most = sum(cost[name] for name in request.like.train)
        limit = Limit("parameters", most, lambda names: sum(cost[n] for n in names))
    else:
        limit = limit_of(request)
    nothing = limit.of([])
    start = request.ranking.start(request.arm.source)
    worth = {name: score - start for name, score in scores.items()}
    per_cost = {n: w / (limit.of([n]) - nothing) if w > 0 else w for n, w in worth.items()}
    return limit.fill(sorted(per_cost, key=lambda n: (worth[n] <= 0, -per_cost[n])))


def without_first(request: Request) -> Choice:
    """A control of Table 8 (FL): the first layers are frozen."""
    return limit_of(request).fill([layer.name for layer in request.layers][::-1])


def without_last(request: Request) -> Choice:
    """A control of Table 8 (LL): the last layers are frozen."""
    return limit_of(request).fill([layer.name for layer in request.layers])


def without_intersection(request: Request) -> Choice:
    """Freezes what every dataset puts among its least important (Table 9)."""
    found = agreement.intersection(request.ranking, request.search.least)
    return _without(request, found.frozen, {"least": request.search.least})


def without_outvoted(request: Request) -> Choice:
    """Freezes what at least `votes` datasets put among their least important."""
    votes, datasets = request.arm.votes, request.ranking.datasets
    if votes > len(datasets):
        raise UserError(
            f"arm {request.arm.name!r}: votes {votes}, but the ranking has {len(datasets)} "
            f"datasets ({', '.join(datasets)})"
        )
    frozen = agreement.outvoted(request.ranking, request.search.least, votes)
    return _without(request, frozen, {"least": request.search.least, "votes": votes})


def random_like(request: Request) -> Choice:
    """The control (RL in Table 8) at as many parameters, or layers, as another arm.

    At equal parameters it is the nearest of many seeded draws: each shuffles the layers and freezes
    from the front while that brings the number of trainable parameters nearer. The matched
    selection itself is never taken.
    """
    like, cost = request.like, request.parameters
    assert like is not None
    if request.arm.match == "layers" and not like.frozen:  # an intersection may be empty
        return Choice(like.train, {"difference": 0, "size": 0})
    rng = random.Random(request.arm.seed)
    shuffles = (rng.sample(list(cost), len(cost)) for _ in range(RANDOM_DRAWS))
    wanted = sum(cost[name] for name in like.train)
    if request.arm.match == "layers":
        draws = [draw[: len(like.frozen)] for draw in shuffles]
    else:
        draws = [_freeze_up_to(sum(cost.values()) - wanted, draw, cost) for draw in shuffles]
    others = [draw for draw in draws if sorted(draw) != sorted(like.frozen)]
    if not others:
        raise UserError(
            f"arm {request.arm.name!r}: {len(cost)} layers leave no selection other than that of "
            f"{request.arm.like!r}; leave this arm out"
        )
    reached = [sum(cost.values()) - sum(cost[name] for name in draw) for draw in others]
    nearest = 0
    if request.arm.match == "parameters":
        nearest = min(range(len(others)), key=lambda i: abs(reached[i] - wanted))
    details: Details = {
        "wanted_parameters": wanted,
        "reached_parameters": reached[nearest],
        "difference": reached[nearest] - wanted,
    }
    return _without(request, others[nearest], details)


def attention(request: Request) -> Choice:
    """ATT of Table 1: query, key, value and output projections."""
    return _component(request, lambda layer: _part(layer) == "attention", "attention")


def attention_without_output(request: Request) -> Choice:
    """ATT2 of Table 1: query, key and value projections."""

    def wanted(layer: Layer) -> bool:
        return _part(layer) == "attention" and not layer.name.endswith(_OUTPUT_PROJECTIONS)

    return _component(request, wanted, "query, key and value")


def feed_forward(request: Request) -> Choice:
    """FFN of Table 1: up, down and gate projections."""
    return _component(request, lambda layer: _part(layer) == "feed_forward", "feed-forward")


def rank_by_score(request: Request) -> Choice:
    """Soft use: every layer trains, at a rank by its place, with the parameters of equal ranks.

    Ranks fall linearly from the first place to the last, where one remains.
    """
    method = request.method
    if not isinstance(method, LoraMethod) or isinstance(method, AdaLoraMethod):
        raise UserError(f"arm {request.arm.name!r}: only LoRA and QLoRA have a rank by layer")
    places, shapes = _places(request), {layer.name: layer.shape for layer in request.layers}
    budget = sum(request.parameters.values())

    def ranks(top: float) -> dict[str, int]:
        return {name: max(1, round(top * place)) for name, place in places.items()}

    def cost(of: Mapping[str, int]) -> int:
        return sum(rank * per_rank(shapes[name]) for name, rank in of.items())

    low, high = 0.0, 4.0 * method.r
    for _ in range(40):  # far beyond the last digit that a rank could turn on
        middle = (low + high) / 2
        low, high = (middle, high) if cost(ranks(middle)) <= budget else (low, middle)
    found = ranks(low)
    return Choice(list(found), {"left over": budget - cost(found)}, ranks=found)


def rate_by_score(request: Request) -> Choice:
    """Soft use: every layer trains, at a learning rate by its place; their mean is the arm's."""
    rates = {name: 2 * place for name, place in _places(request).items()}
    return Choice(list(rates), rates=rates)


def _places(request: Request) -> dict[str, float]:
    """Return each layer's place, from just under 1 (most important) to just above 0, mean 1/2."""
    ordered = request.by_score()
    return {name: 1 - (i + 0.5) / len(ordered) for i, name in enumerate(ordered)}


def _without(request: Request, frozen: Collection[str], details: Details) -> Choice:
    train = [layer.name for layer in request.layers if layer.name not in frozen]
    return Choice(train, {**details, "size": len(frozen)})


def _freeze_up_to(budget: int, shuffled: Sequence[str], cost: Mapping[str, int]) -> list[str]:
    """Freeze the longest prefix of `shuffled` near the budget, at least one layer, never all."""
    frozen = [shuffled[0]]
    spent = cost[shuffled[0]]
    for name in shuffled[1:-1]:
        if abs(spent + cost[name] - budget) >= abs(spent - budget):
            break
        frozen.append(name)
        spent += cost[name]
    return frozen


_OUTPUT_PROJECTIONS = (".o_proj", ".out_proj", ".dense", ".c_proj", ".wo")
"""Output projections of attention in the architectures of transformers."""


def _part(layer: Layer) -> str | None:
    """Return the half of a block that a layer belongs to, by the name of its parent module."""
    holder = layer.name.split(".")[-2] if "." in layer.name else ""
    if "attn" in holder or "attention" in holder:
        return "attention"
    if any(part in holder for part in ("mlp", "ffn", "feed_forward")):
        return "feed_forward"
    return None


def _component(request: Request, wanted: Callable[[Layer], bool], what: str) -> Choice:
    train = [layer.name for layer in request.layers if wanted(layer)]
    if not train:
        kinds = sorted({layer.type for layer in request.layers})
        raise UserError(
            f"arm {request.arm.name!r}: no layer of {request.ranking.base_model} is named as "
            f"{what} projections are; its types are {', '.join(kinds)}"
        )
    return Choice(train)


def _number(value: float) -> str:
    return f"{value:,.0f}"


_ANY = ("keep", "layers", "parameters", "memory", "seconds")

POLICIES: dict[str, Policy] = {
    "all": Policy(everything, reads="nothing"),
    "ila": Policy(most_important, reads="source", limits=_ANY),
    "per_cost": Policy(most_per_cost, reads="source", limits=("parameters", "memory", "seconds")),
    "intersection": Policy(without_intersection, reads="all", settings=("least",)),
    "vote": Policy(without_outvoted, reads="all", settings=("least",)),
    "reversed": Policy(least_important, reads="source", limits=_ANY),
    "freeze_first": Policy(without_first, reads="nothing", limits=_ANY),
    "freeze_last": Policy(without_last, reads="nothing", limits=_ANY),
    "freeze_random": Policy(random_like, reads="nothing", needs_like=True),
    "attention": Policy(attention, reads="nothing"),
    "attention_qkv": Policy(attention_without_output, reads="nothing"),
    "feed_forward": Policy(feed_forward, reads="nothing"),
    "rank_by_score": Policy(rank_by_score, reads="source"),
    "rate_by_score": Policy(rate_by_score, reads="source"),
}
