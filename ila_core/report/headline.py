"""The answer in plain sentences, computed from the data and as sober as the data are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import fmean

from ila_core.agreement import Agreement
from ila_core.certainty import unsure_layers
from ila_core.ranking import Ranking, kept_count, order
from ila_core.report import ReportData
from ila_core.report.comparison import ArmResult, Difference
from ila_core.scorers import ILA


def headline(data: ReportData) -> list[str]:
    """Which layers matter; whether that is more than chance; whether it helps to know."""
    ranking = data.ranking
    return [
        _layers(data),
        *caveats(ranking, data.profile.search.keep),
        *_agreement(data),
        *_arms(data),
    ]


def caveats(ranking: Ranking, keep: float) -> Iterator[str]:
    """What a ranking is not to be read without: was stage 1 done, and how sure is the cut."""
    unstable = [
        f"{dataset} seed {seed}"
        for dataset, of_seed in ranking.stable.items()
        for seed, stable in of_seed.items()
        if stable is False  # `None`: these scores rest on no stage 1
    ]
    if unstable:
        yield f"Stage 1 was not stable when it ended on {_list(unstable)}: scores may still move."
    unsure = {d: unsure_layers(ranking, d, keep) for d in ranking.datasets}
    known = [f"{len(names)} on {d}" for d, names in unsure.items() if names is not None]
    if known:
        n = len(ranking.layers)
        yield f"Search seeds differ on whether to keep {_list(known)} of {n} layers."
    else:
        yield "There is one search seed only: how sure a layer's place is, is not known."


def _layers(data: ReportData) -> str:
    ranking, keep = data.ranking, data.profile.search.keep
    n, kept = len(ranking.layers), kept_count(keep, len(ranking.layers))
    orders = {d: order(ranking.scores(d), ranking.layers) for d in ranking.datasets}
    kinds = {layer.name: layer.type for layer in ranking.layers}
    frozen = Counter(kinds[name] for names in orders.values() for name in names[kept:])
    total = Counter(kinds.values())
    shares = {t: frozen[t] / (total[t] * len(orders)) for t in total}
    by_share = sorted(total, key=lambda t: -shares[t])
    spared = [f"{t} ({100 * shares[t]:.0f} %)" for t in by_share if shares[t] > 0][:3]
    top = sorted(kinds, key=lambda x: fmean(names.index(x) for names in orders.values()))[:3]
    found = f"Of {n} layers {_who(ranking)} keeps {kept} and freezes {n - kept}. "
    if spared:
        found += f"The types it freezes most are {_list(spared)}; "
        return found + f"the layers that matter most are {_list(top)}."
    return found + f"The layers that matter most are {_list(top)}."


def _agreement(data: ReportData) -> Iterator[str]:
    pairs = _of(data.agreements, "datasets")
    sizes = [x.jaccard for x in _of(data.agreements, "size")]
    seeds = [x.jaccard for x in _of(data.agreements, "seeds")]
    if pairs:
        chance, typed = pairs[0], [x.chance_within_types_jaccard for x in pairs]
        yield (
            f"Two datasets' kept layers agree at Jaccard {_range([x.jaccard for x in pairs])}. "
            f"Random layers would agree at {chance.chance_jaccard:.2f} (99th percentile "
            f"{chance.p99_jaccard:.2f}), random layers of the same types at {_range(typed)}: "
            f"{_count([x.above_chance for x in pairs])} above chance, and "
            f"{_count([x.above_type_chance for x in pairs])} above what layer type alone explains."
        )
    else:
        yield "Only one dataset was searched: nothing can be said about agreement between datasets."
    noise = f"Two seeds of one dataset agree at {_range(seeds)}" if seeds else ""
    if seeds and pairs and min(seeds) <= fmean(x.jaccard for x in pairs):
        noise += ": where least, the search's own noise is as large as what sets datasets apart"
    who = _who(data.ranking)
    rule = f"Freezing just the smallest matrices agrees with {who} at {_range(sizes)}"
    yield f"{noise}. {rule}." if noise else f"{rule}."


def _arms(data: ReportData) -> Iterator[str]:
    for x in data.arms:
        if x.policy in ("ila", "intersection") and x.versus is not None:
            policy = data.selections[x.versus.against].policy
            other = "training all layers" if policy == "all" else x.versus.against
            yield f"{_sentence(x, x.versus, other)}."
        for control in x.controls:
            found = _sentence(x, control, f"random layers of equal parameters ({control.against})")
            lost = "" if control.verdict == "better" else f": {x.arm} does not beat random here"
            yield f"{found}{lost}."
        if x.policy == "freeze_random" and x.versus and x.versus.verdict == "better":
            # Where training everything overfits, any freezing helps, random most (docs/LOG.md).
            yield f"Even {x.arm} is better than {x.versus.against}: here freezing helps by itself."


def _sentence(arm: ArmResult, found: Difference, other: str) -> str:
    seen = found.verdict != "no difference seen"
    how = f"{found.verdict} than" if seen else "not distinguishable from"
    spread = max(arm.losses.values()) - min(arm.losses.values())
    noise = ", less than its own seeds differ" if seen and abs(found.difference) < spread else ""
    return (
        f"On held-out loss {arm.arm} is {how} {other} ({found.difference:+.4f} nats per token, "
        f"from {found.low:+.4f} to {found.high:+.4f}{noise})"
    )


def _who(ranking: Ranking) -> str:
    return "ILA" if ranking.scorer == ILA else f"the scorer {ranking.scorer}"


def _of(agreements: Sequence[Agreement], kind: str) -> list[Agreement]:
    return [x for x in agreements if x.kind == kind]


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _count(flags: Sequence[bool]) -> str:
    return f"{sum(flags)} of {len(flags)} {'pair is' if len(flags) == 1 else 'pairs are'}"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]
