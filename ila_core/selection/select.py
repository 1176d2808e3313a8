"""Which layers to train: a policy turns a ranking into a `Selection`.

A selection depends on nothing but the scores its policy reads, so the ranking it is given may hold
just those columns:

    required_datasets(ArmConfig(name="baseline", policy="all"), ("lima", "dolly"))  # ()
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ila_core.config import ArmConfig, MethodSettings
from ila_core.config.finetune import per_rank
from ila_core.errors import UserError, unknown_name
from ila_core.models.layers import Layer
from ila_core.search.ranking import Ranking, exact, kept_count
from ila_core.selection.policies import POLICIES, Fractions, Request
from ila_core.selection.selection import UNCOVERED, Details, Selection
from ila_core.train.forecast import Forecast


def select(
    arm: ArmConfig,
    ranking: Ranking,
    search: Fractions,
    method: MethodSettings,
    like: Selection | None,
    forecast: Forecast | None = None,
) -> Selection:
    """Apply the arm's policy.

    Args:
        method: how the arm trains, which is what its parameters are counted by.
        like: the selection of the arm that `arm.like` names.
        forecast: of this method, where `arm.memory` or `arm.seconds` is the limit.

    Raises:
        UserError: for an unknown policy or source, or when what the policy needs is missing.
    """
    required_datasets(arm, ranking.datasets)
    policy = POLICIES[arm.policy]
    choice = policy.choose(Request(arm, ranking, search, method, like, forecast))
    chosen = frozenset(choice.train)
    train = [layer for layer in ranking.layers if layer.name in chosen]
    if not train:
        raise UserError(
            f"arm {arm.name!r}: policy {arm.policy!r} freezes all {len(ranking.layers)} layers, so "
            "nothing would train; raise `search.keep` or lower `search.least`"
        )
    ranks = {x.name: choice.ranks[x.name] for x in train} if choice.ranks else None
    return Selection(
        policy=arm.policy,
        source=arm.source if policy.reads == "source" else None,
        train=tuple(layer.name for layer in train),
        frozen=tuple(layer.name for layer in ranking.layers if layer.name not in chosen),
        trainable_parameters=(
            sum(ranks[layer.name] * per_rank(layer.shape) for layer in train)
            if ranks
            else sum(method.parameters(layer.shape) for layer in train)
        ),
        lora_ranks=ranks,
        rates={x.name: choice.rates[x.name] for x in train} if choice.rates else None,
        details={**choice.details, **_uncovered(ranking)},
    )


def required_datasets(arm: ArmConfig, datasets: Sequence[str]) -> tuple[str, ...]:
    """Return the searched datasets whose scores the arm's selection depends on.

    Raises:
        UserError: for an unknown policy, a source that is missing or was not searched, a limit
            that the policy does not heed, or a missing `like:`.
    """
    if arm.policy not in POLICIES:
        raise unknown_name("policy", arm.policy, POLICIES)
    policy = POLICIES[arm.policy]
    _check_limit(arm)
    if policy.needs_like and arm.like is None:
        raise UserError(
            f"arm {arm.name!r}: policy {arm.policy!r} matches another arm; name that arm, one "
            "listed before it, in `like:`"
        )
    if policy.reads == "nothing":
        return ()
    if policy.reads == "all":
        return tuple(datasets)
    if arm.source is None:
        raise UserError(
            f"arm {arm.name!r}: policy {arm.policy!r} needs `source:`, the dataset whose ranking "
            f"decides: {', '.join(datasets)}"
        )
    if arm.source not in datasets:
        raise unknown_name(f"source of arm {arm.name!r},", arm.source, datasets)
    return (arm.source,)


def plainest(arm: ArmConfig, datasets: Sequence[str], search: Fractions) -> ArmConfig:
    """Return the arm by the plainest policy that selects the same layers, whatever the scores are.

    Arms that come to the same share their steps: on one dataset `intersection` is `ila`.
    """
    policy, keep, source = arm.policy, arm.keep, arm.source
    if policy == "vote" and arm.votes == len(datasets):
        policy = "intersection"
    if policy == "intersection" and len(datasets) == 1:
        policy, source, keep = "ila", datasets[0], float(1 - exact(search.least))
    if reads_keep(arm.model_copy(update={"policy": policy, "keep": None})):
        if (search.keep if keep is None else keep) == 1:
            policy, keep = "all", None
        elif keep == search.keep:
            keep = None
    found: dict[str, object] = {"policy": policy, "keep": keep, "source": source}
    if policy != arm.policy:
        found |= {"votes": ArmConfig.model_fields["votes"].default}
        found |= {"source": source if POLICIES[policy].reads == "source" else None}
    return arm.model_copy(update=found)


def reads_keep(arm: ArmConfig) -> bool:
    """Whether the selection depends on `search.keep`."""
    return not arm.limits and POLICIES[arm.policy].limits[:1] == ("keep",)


def reason(
    policy: str,
    source: str | None,
    train: Sequence[str],
    frozen: Sequence[str],
    ranking: Ranking | None,
) -> str:
    """Say in one line why these layers train and no others.

    Args:
        ranking: whose scores decided; `None` where the policy reads none.
    """
    line = f"{len(train)} of {len(train) + len(frozen)} layers train by policy {policy}"
    if source is None or ranking is None:
        return line
    scores = ranking.scores(source)
    lowest = min(train, key=scores.__getitem__)
    line += f", scores of {source}: the lowest that trains is {lowest} ({scores[lowest]:.4g})"
    if frozen:
        highest = max(frozen, key=scores.__getitem__)
        line += f", the highest that is frozen {highest} ({scores[highest]:.4g})"
    if policy == "per_cost":
        line += "; what counts is the score over what a layer costs"
    return line


def lora_parameters(layers: Iterable[Layer], r: int) -> int:
    """Count the trainable parameters of LoRA at rank r: A is (r, in), B is (out, r)."""
    return sum(r * per_rank(layer.shape) for layer in layers)


def _check_limit(arm: ArmConfig) -> None:
    heeded = POLICIES[arm.policy].limits
    if arm.like is not None and (arm.limits or arm.policy not in ("per_cost", "freeze_random")):
        raise UserError(
            f"arm {arm.name!r}: `like` is what limits freeze_random and per_cost, beside no other "
            f"limit; policy {arm.policy!r} was given {', '.join(arm.limits) or 'only that'}"
        )
    if arm.policy == "per_cost" and arm.like is None and not arm.limits:
        raise UserError(
            f"arm {arm.name!r}: per_cost needs a limit: {', '.join(heeded)}, or `like:`, an arm "
            "with as many parameters"
        )
    for field in arm.limits:
        if field not in heeded:
            able = [name for name, policy in POLICIES.items() if field in policy.limits]
            raise UserError(
                f"arm {arm.name!r}: policy {arm.policy!r} does not heed `{field}`"
                + (f", only {', '.join(heeded)}" if heeded else ": what it trains is its own rule")
                + f"; those that heed it are {', '.join(able)}"
            )


def budget_table(
    forecast: Forecast, ordered: Sequence[str], fractions: Sequence[float]
) -> list[Mapping[str, Any]]:
    """Tabulate what the first layers of `ordered` cost, by the fraction of all layers."""
    rows: list[Mapping[str, Any]] = []
    for fraction in fractions:
        names = ordered[: max(1, kept_count(fraction, len(ordered)))]
        chosen = [layer for layer in forecast.layers if layer.name in set(names)]
        rows.append(
            {
                "of the layers": fraction,
                "layers": len(names),
                "trainable": sum(forecast.method.parameters(x.shape) for x in chosen),
                "memory": forecast.memory(names),
                "time": forecast.seconds(names) if forecast.flops_per_second else None,
            }
        )
    return rows


def _uncovered(ranking: Ranking) -> Details:
    said = ranking.coverage.said if ranking.coverage else None
    return {UNCOVERED: said} if said else {}
