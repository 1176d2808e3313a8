"""The report's headline: the main findings as sentences, computed from the data."""

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import fmean

from ila_core.report.comparison import ArmResult, Difference
from ila_core.report.data import ReportData
from ila_core.search.agreement import Agreement
from ila_core.search.certainty import unsure_layers
from ila_core.search.ranking import Ranking, kept_count, order
from ila_core.search.scorers import ILA


def headline(data: ReportData) -> list[str]:
    """Say which layers matter, whether datasets agree beyond chance, and whether freezing helps."""
    ranking = data.ranking
    return [
        _layers(data),
        *caveats(ranking, data.profile.search.keep),
        *_agreement(data),
        *_arms(data),
    ]


def caveats(ranking: Ranking, keep: float) -> Iterator[str]:
    """Yield the caveats of a ranking: what no layer holds, stage 1, and how sure the cut is."""
    if ranking.coverage and (said := ranking.coverage.said):
        yield f"{said[0].upper()}{said[1:]}."
    if names := ranking.unstable:
        yield f"Stage 1 was not stable when it ended on {_list(names)}: scores may still move."
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
    if len(data.profile.finetune.arms) > 1:
        yield _case(data)
    for x in data.arms:
        if x.policy in ("ila", "intersection") and x.versus and x.versus_at_best:
            other = _called(data, x.versus.against)
            yield f"{_sentence(x, x.versus, x.versus_at_best, other)}."
        for control in x.controls:
            equal = "random layers of equal parameters"
            if control.match == "layers":
                equal = "as many random layers"
            found = _sentence(x, control, control.at_best, f"{equal} ({control.against})")
            when = _better_when(control, control.at_best)
            if when is None:
                found += f": {x.arm} does not beat random here"
            elif when:
                found += f": {x.arm} beats random only {when}"
            yield f"{found}."
        if x.policy == "freeze_random" and x.versus and x.versus_at_best:
            # Where training everything overfits, any freezing helps, random most (docs/LOG.md).
            when = _better_when(x.versus, x.versus_at_best)
            if when is not None:
                only = f", though only {when}" if when else ""
                yield (
                    f"Even {x.arm} is better than {x.versus.against}{only}: here freezing helps by "
                    "itself."
                )


def _case(data: ReportData) -> str:
    """Say whether the reference arm overfits, since freezing then acts as regularisation."""
    arm = next(x for x in data.arms if x.arm == data.profile.evaluate.against)
    who = _called(data, arm.arm)
    start = who[0].upper() + who[1:] if who != arm.arm else who
    if not data.profile.finetune.watch:
        return (
            f"Whether {who} overfits here is not known: held-out loss was taken at the end only "
            "(finetune.watch)."
        )
    best, past = f"{arm.best_step} of {arm.steps}", arm.past_best
    if past is None:
        return f"{start} does not overfit here: its best step is its last."
    if not arm.overfits:
        return (
            f"{start} does not overfit here: its end is not distinguishable from its best step "
            f"({best}; {_interval(past)})."
        )
    return (
        f"{start} overfits here (its best step is {best}; from there to its end "
        f"{_interval(past)}): a gain from freezing may be regularisation alone, so compare at the "
        "best step and with random."
    )


def _sentence(arm: ArmResult, end: Difference, best: Difference, other: str) -> str:
    spread = max(arm.losses.values()) - min(arm.losses.values())
    small = end.verdict != "no difference seen" and abs(end.difference) < spread
    noise = ", less than its own seeds differ" if small else ""
    found = f"On held-out loss {arm.arm} is {_than(end)} {other} ({_interval(end)}{noise})"
    if best.difference == end.difference:  # no best step lies before an end
        return found
    if best.verdict == end.verdict:
        return f"{found}, and so at each one's own best step ({_interval(best)})"
    return f"{found}, but at each one's own best step {_than(best)} it ({_interval(best)})"


def _than(found: Difference) -> str:
    seen = found.verdict != "no difference seen"
    return f"{found.verdict} than" if seen else "not distinguishable from"


def _interval(found: Difference) -> str:
    return f"{found.difference:+.4f} nats per token, from {found.low:+.4f} to {found.high:+.4f}"


def _better_when(end: Difference, best: Difference) -> str | None:
    """Say at which of the two steps the arm is better: empty at both, `None` at neither."""
    at_end, at_best = (x.verdict == "better" for x in (end, best))
    if at_end and at_best:
        return ""
    if at_end:
        return "at the end of the schedule"
    return "at each one's own best step" if at_best else None


def _called(data: ReportData, arm: str) -> str:
    return "training all layers" if data.selections[arm].policy == "all" else arm


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
