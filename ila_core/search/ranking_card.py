"""A ranking's card: what one must know before training with it, as data and as Markdown."""

from collections.abc import Mapping

from ila_core.config import Frozen
from ila_core.errors import listed
from ila_core.search.agreement import Agreement, agreements
from ila_core.search.certainty import unsure_layers
from ila_core.search.ranking import Ranking, kept_count

SHOWN = 12
"""Rows of agreement, and unsure layers of a dataset; of the rest, the number."""


class DatasetOnCard(Frozen):
    """One dataset that was searched."""

    name: str
    licence: str
    seeds: tuple[str, ...]
    unsure: tuple[str, ...] | None
    """Layers that some seeds keep and others freeze; `None` for a single seed."""
    control_auc: float | None
    """The AUC of the positive control; `None`: not run."""


class RankingCard(Frozen):
    """Everything on the card."""

    base_model: str
    model: dict[str, str]
    key: str
    digest: str
    scorer: str
    keep: float
    layers: int
    kept: int
    adopted: bool
    datasets: tuple[DatasetOnCard, ...]
    agreements: tuple[Agreement, ...]
    seconds: float | None
    """Seconds of all steps of its search; `None`: this cache does not hold them."""
    limits: tuple[str, ...]


def make_card(
    ranking: Ranking,
    *,
    adopted: bool,
    licences: Mapping[str, str],
    controls: Mapping[str, float],
    seconds: float | None,
) -> RankingCard:
    """Make the card of `ranking`, with what only those who hold its search know."""
    unsure = {d: unsure_layers(ranking, d, ranking.keep) for d in ranking.datasets}
    found = agreements(ranking, ranking.keep)
    return RankingCard(
        base_model=ranking.base_model,
        model=ranking.model,
        key=ranking.key,
        digest=ranking.digest,
        scorer=ranking.scorer,
        keep=ranking.keep,
        layers=len(ranking.layers),
        kept=kept_count(ranking.keep, len(ranking.layers)),
        adopted=adopted,
        datasets=tuple(
            DatasetOnCard(
                name=name,
                licence=licences.get(name, "not stated"),
                seeds=ranking.seeds(name),
                unsure=None if (u := unsure[name]) is None else tuple(u),
                control_auc=controls.get(name),
            )
            for name in ranking.datasets
        ),
        agreements=found,
        seconds=seconds,
        limits=tuple(_limits(ranking, found, adopted=adopted)),
    )


def _limits(ranking: Ranking, found: tuple[Agreement, ...], *, adopted: bool) -> list[str]:
    unstable = ranking.unstable
    single = [d for d in ranking.datasets if len(ranking.seeds(d)) == 1]
    pairs = [x for x in found if x.kind != "size"]
    at_chance = [f"{x.a} and {x.b}" for x in pairs if not x.above_chance]
    of_type = [f"{x.a} and {x.b}" for x in pairs if x.above_chance and not x.above_type_chance]
    sizes = [f"{x.jaccard:.2f} on {x.a}" for x in found if x.kind == "size"]
    uncovered = ranking.coverage.said if ranking.coverage else None
    said = {
        f"Of the whole, {uncovered}": uncovered,
        "Adopted: it was made elsewhere, and nothing here proves how": adopted,
        f"Stage 1 was not stable when it ended on {listed(unstable)}: scores may still move": (
            unstable
        ),
        f"One search seed on {listed(single)}: how sure a layer's place is, is not known": single,
        f"Agreement no better than chance: {listed(at_chance)}": at_chance,
        f"Agreement that layer types alone explain: {listed(of_type)}": of_type,
        f"Freezing just the smallest matrices agrees with it at Jaccard {listed(sizes)}": sizes,
        "One dataset only: whether another agrees is not known": len(ranking.datasets) == 1,
    }
    return [sentence for sentence, holds in said.items() if holds]


def markdown(card: RankingCard) -> str:
    """Write the card as MLflow's page of a version, `ila rankings show` and `pull` show it."""
    model = ", ".join(f"{what} {value[:60]}" for what, value in card.model.items()) or "not stated"
    lines = [
        f"# Layers of {card.base_model} that matter",
        "",
        f"Made on {model}. Scorer {card.scorer}; {card.kept} of {card.layers} layers kept "
        f"(keep {card.keep:g}). Key {card.key}, digest {card.digest[:12]}.",
        "",
        "| dataset | licence | seeds | unsure layers | planted noise found (AUC) |",
        "|---|---|---|---|---|",
    ]
    for d in card.datasets:
        unsure = "one seed" if d.unsure is None else f"{len(d.unsure)}: {listed(d.unsure, SHOWN)}"
        if d.unsure == ():
            unsure = "none"
        auc = "not run" if d.control_auc is None else f"{d.control_auc:.2f}"
        lines.append(f"| {d.name} | {d.licence} | {listed(d.seeds)} | {unsure} | {auc} |")
    lines += [
        "",
        "| kept layers of | and of | Jaccard | chance (99 %) | within types (99 %) |",
        "|---|---|---|---|---|",
    ]
    for x in card.agreements[:SHOWN]:
        chance = f"{x.chance_jaccard:.2f} ({x.p99_jaccard:.2f})"
        typed = f"{x.chance_within_types_jaccard:.2f} ({x.p99_within_types_jaccard:.2f})"
        lines.append(f"| {x.a} | {x.b} | {x.jaccard:.2f} | {chance} | {typed} |")
    if len(card.agreements) > SHOWN:
        lines += ["", f"and {len(card.agreements) - SHOWN} more pairs"]
    cost = "not known here" if card.seconds is None else f"{card.seconds:,.0f} s of computing"
    lines += ["", f"Cost of the search: {cost}.", "", "Known limits:", ""]
    lines += [f"* {sentence}." for sentence in card.limits] or ["* none that the document tells"]
    return "\n".join(lines) + "\n"
