"""Tables of a comparison and of a decision, and the notes below them."""

from collections.abc import Sequence
from statistics import fmean

import pandas as pd

from ila_core.compare.arms import Comparison, bonferroni
from ila_core.compare.decide import Decision
from ila_core.compare.sample_size import POWER


def comparison_table(comparison: Comparison) -> pd.DataFrame:
    """Tabulate one row per arm and benchmark, with the intervals over items and over seeds."""
    return pd.DataFrame(
        {
            "benchmark": x.benchmark,
            "arm": x.a,
            "value": _value(x.by_seed_a, x.at_chance_a),
            "against": x.b,
            "its value": _value(x.by_seed_b, x.at_chance_b),
            "unit": x.unit,
            "better": x.better,
            "difference": x.difference,
            "low": x.low,
            "high": x.high,
            "low over seeds": x.over_seeds.low if x.over_seeds else None,
            "high over seeds": x.over_seeds.high if x.over_seeds else None,
            "re-judged": x.between_repeats,
            "items": x.items,
            "left out": x.left_out,
        }
        for x in comparison.compared
    ).dropna(axis="columns", how="all")


def comparison_notes(comparison: Comparison) -> list[str]:
    """Explain the columns of `comparison_table` that are present."""
    every = comparison.compared
    notes = [
        f"low to high: {comparison.each:.2%} intervals (paired over items, the trained models "
        f"fixed), so that all {len(every)} hold at once with {comparison.confidence:.0%} "
        "(Bonferroni)."
    ]
    if comparison.limited:
        said = ", ".join(f"{name} to {limit}" for name, limit in comparison.limited.items())
        notes.append(f"Limited, questions per task: {said}. A look, no evaluation.")
    if any(x.over_seeds for x in every):
        notes.append(
            "Over seeds: the same for trainings with other seeds (Student's interval); an arm with "
            "one seed counts as that one model. In brackets: lowest and highest seed."
        )
    if any(x.between_repeats is not None for x in every):
        notes.append(
            "Re-judged: standard deviation of the difference when the same answers are judged "
            "again, once each. What of it differs by item is in the intervals over items."
        )
    if any(x.left_out for x in every):
        notes.append("Left out: items without a grade in one of the two, in no number here.")
    if any(x.at_chance_a or x.at_chance_b for x in every):
        notes.append(
            f"At chance: does not differ from guessing ({comparison.confidence:.0%}; accuracies by "
            "the exact binomial test)."
        )
    if comparison.unknown_generation:
        notes.append(
            f"Read from a file, so nobody can say how they were generated: the answers of "
            f"{', '.join(comparison.unknown_generation)}."
        )
    if comparison.missing:
        notes.append(f"Not compared, since not evaluated: {', '.join(comparison.missing)}.")
    return notes


def decision_table(decision: Decision) -> pd.DataFrame:
    """Tabulate one row per requirement."""
    return pd.DataFrame(
        {
            "benchmark": x.benchmark,
            "unit": x.unit,
            "improvement": x.improvement,
            "low": x.low,
            "high": x.high,
            "interval over": x.over,
            "at least": x.at_least,
            "verdict": f"{x.verdict} (at chance)" if x.uninformative else x.verdict,
            "items": x.items,
            "items needed": x.needed.items if x.needed else None,
            "seeds": x.seeds,
            "seeds needed": x.needed.seeds if x.needed else None,
        }
        for x in decision.outcomes
    ).dropna(axis="columns", how="all")


def decision_notes(decision: Decision) -> list[str]:
    """Give the reason of every requirement, and explain the columns of `decision_table`."""
    outcomes = decision.outcomes
    each = bonferroni(decision.rule.confidence, len(outcomes))
    notes = [f"{x.benchmark}: {x.verdict}. {x.reason}." for x in outcomes]
    notes.append(
        f"Improvements: + is better, whichever way the unit runs. Low to high: {each:.2%} "
        f"intervals, so that all {len(outcomes)} hold at once with "
        f"{decision.rule.confidence:.0%} (Bonferroni)."
    )
    if any(x.over == "items" for x in outcomes):
        notes.append(
            "Over items: about these trained models; another fine-tuning seed may differ by more."
        )
    if any(x.uninformative for x in outcomes):
        notes.append(
            "At chance: neither arm differs from guessing, so that neither is worse says little."
        )
    if any(x.needed for x in outcomes):
        notes.append(
            "Needed: an extrapolation from the difference and spread seen; that many in all would "
            f"decide {POWER:.0%} of such cases."
        )
    return notes


def _value(by_seed: Sequence[float], at_chance: bool) -> str:
    seeds = f" ({min(by_seed):.4f} to {max(by_seed):.4f})" if len(by_seed) > 1 else ""
    return f"{fmean(by_seed):.4f}{seeds}{' at chance' if at_chance else ''}"
