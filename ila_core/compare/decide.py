"""The decision by a rule: does the candidate replace the baseline?

A requirement *holds* when the whole interval of the improvement lies at or above its margin, it
*fails* when the whole interval lies below, and is undecided otherwise. The interval is taken over
seeds when an arm has several, else over items. All intervals of a rule share its confidence
(Bonferroni). For "ship" alone, which needs every requirement, each could have the whole error rate
(Berger 1982, doi:10.1080/00401706.1982.10487790); for "no", which needs one failure, it could not.
"""

from typing import Literal

from ila_core.compare.arms import Compared, Evaluated, compare
from ila_core.compare.rule import Rule
from ila_core.compare.sample_size import Needed, needed
from ila_core.config import Frozen
from ila_core.errors import UserError

LEAST_ITEMS = 30
"""Least items for a decision: with fewer a percentile bootstrap is too narrow (Hesterberg 2015,
doi:10.1080/00031305.2015.1089789)."""

Verdict = Literal["holds", "fails", "undecided"]
Answer = Literal["ship", "no", "undecided"]


class Outcome(Frozen):
    """The result for one requirement; improvements are in the benchmark's unit, + is better."""

    benchmark: str
    unit: str
    at_least: float
    improvement: float
    low: float
    high: float
    over: Literal["items", "seeds"]
    """`items`: the interval is about these trained models; `seeds`: about other seeds too."""
    items: int
    seeds: int
    """The number of seeds of the arm that has more."""
    verdict: Verdict
    uninformative: bool
    """Whether both arms are at chance, so that "no worse" says nothing about either."""
    reason: str
    needed: Needed | None
    """Items and seeds that would decide it; `None` when it is decided or no such number is."""


class Decision(Frozen):
    answer: Answer
    candidate: str
    baseline: str
    rule: Rule
    outcomes: tuple[Outcome, ...]
    reason: str


def decide(
    candidate: tuple[str, Evaluated], baseline: tuple[str, Evaluated], rule: Rule
) -> Decision:
    """Answer "ship" when every requirement holds, "no" when one fails, else "undecided".

    Args:
        candidate: name and evaluations; benchmarks that the rule does not name are ignored.

    Raises:
        UserError: when a benchmark of the rule was not evaluated, or not measured alike.
    """
    asked = {x.benchmark: x for x in rule.require}
    (name, found), (against, found_against) = candidate, baseline
    if name == against:
        raise UserError(f"the candidate and the baseline are both {name!r}: name two")
    for arm, has in (candidate, baseline):
        if absent := [x for x in asked if not has.get(x)]:
            raise UserError(
                f"rule {rule.name!r} asks for {', '.join(absent)}, which {arm!r} was not evaluated "
                f"on: run `ila evaluate {arm} --benchmarks {','.join(absent)}`"
            )
    comparison = compare(
        {name: {x: found[x] for x in asked}, against: {x: found_against[x] for x in asked}},
        against=against,
        confidence=rule.confidence,
        resamples=rule.resamples,
        seed=rule.seed,
    )
    outcomes = tuple(
        _outcome(x, asked[x.benchmark].at_least, rule, comparison.each) for x in comparison.compared
    )
    by_verdict = {
        v: [x.benchmark for x in outcomes if x.verdict == v] for v in ("fails", "undecided")
    }
    answer: Answer = "ship"
    reason = f"all {len(outcomes)} requirements hold" if len(outcomes) > 1 else "it holds"
    if by_verdict["fails"]:
        answer, reason = "no", f"{', '.join(by_verdict['fails'])} fails"
    elif by_verdict["undecided"]:
        answer, reason = "undecided", f"{', '.join(by_verdict['undecided'])} may hold or fail"
    return Decision(
        answer=answer, candidate=name, baseline=against, rule=rule, outcomes=outcomes, reason=reason
    )


def _outcome(x: Compared, at_least: float, rule: Rule, each: float) -> Outcome:
    interval = x.over_seeds or x
    low, high = sorted((x.sign * interval.low, x.sign * interval.high))
    improvement = x.sign * x.difference
    verdict: Verdict = "undecided"
    if low >= at_least:
        verdict = "holds"
    elif high < at_least:
        verdict = "fails"
    at_chance = x.at_chance_a and x.at_chance_b
    seeds = max(len(x.by_seed_a), len(x.by_seed_b))
    why, more = "", None
    if len(x.by_seed_a) < rule.seeds:
        verdict, why = "undecided", f"the rule asks for {rule.seeds} seeds of the candidate"
        more = Needed(items=x.items, seeds=rule.seeds, bottleneck="seeds")
    elif x.items < LEAST_ITEMS:
        verdict, why = "undecided", f"{x.items} items, and {LEAST_ITEMS} are the least to decide on"
        more = Needed(items=LEAST_ITEMS, seeds=seeds, bottleneck="items")
    elif at_chance and at_least >= 0 and verdict != "fails":
        verdict, why = "undecided", "both stand at chance, where nothing shows to be better"
    elif verdict == "undecided":
        more = needed(x, abs(improvement - at_least), each)
        why = _would_decide(more, x.items, seeds)
    stands = {"holds": "not below", "fails": "below", "undecided": "not told from"}[verdict]
    return Outcome(
        benchmark=x.benchmark,
        unit=x.unit,
        at_least=at_least,
        improvement=improvement,
        low=low,
        high=high,
        over="seeds" if x.over_seeds else "items",
        items=x.items,
        seeds=seeds,
        verdict=verdict,
        uninformative=at_chance,
        reason=f"{improvement:+.4g} ({low:+.4g} to {high:+.4g}) {x.unit} is {stands} {at_least:+g}"
        + (f": {why}" if why else ""),
        needed=more,
    )


def _would_decide(more: Needed | None, items: int, seeds: int) -> str:
    if more is None:
        return "so near it that no number of items worth naming would tell"
    count = {
        "items": f"{more.items:,} items ({more.items - items:,} more)",
        "seeds": f"{more.seeds:,} fine-tuning seeds ({more.seeds - seeds:,} more)",
    }
    asked = [count[x] for x in ("items", "seeds") if more.bottleneck in (x, "both")]
    return f"about {' and '.join(asked)} would tell, if the difference and its spread stay"
