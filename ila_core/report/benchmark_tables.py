"""Tables of the benchmarks other than held-out loss."""

from collections.abc import Mapping, Sequence
from statistics import fmean

import pandas as pd

from ila_core.compare.arms import compare
from ila_core.compare.chance import all_at_chance, at_chance, interval
from ila_core.compare.results import Evaluation
from ila_core.config import EvaluateConfig


def evaluation_table(result: Evaluation, confidence: float) -> pd.DataFrame:
    """Tabulate one evaluation, then its subjects or categories, with intervals and chance level."""
    parts = {"all": result}
    if len(result.groups) > 1:
        for group in result.groups:
            items = tuple(item for item in result.items if item.group == group)
            parts[group] = result.model_copy(update={"items": items})
    rows = []
    for name, part in parts.items():
        low, high = interval(part, confidence=confidence)
        row: dict[str, object] = {"group": name, "value": part.value, "low": low, "high": high}
        if part.chance is not None:
            at = "at chance" if at_chance(part, confidence=confidence) else ""
            row |= {"chance": part.chance, "": at}
        rows.append(row | {"items": len(part.items)})
    return pd.DataFrame(rows)


def benchmarks_table(
    found: Mapping[str, Mapping[str, Sequence[Evaluation]]], evaluate: EvaluateConfig
) -> pd.DataFrame:
    """Tabulate each benchmark and arm: its value, and its difference to `evaluate.against`."""
    against = evaluate.against
    apart = {}
    if len(found) > 1 and against in found:
        compared = compare(
            found,
            against=against,
            confidence=evaluate.confidence,
            resamples=evaluate.resamples,
            seed=evaluate.seed,
        )
        apart = {(x.benchmark, x.a): x for x in compared.compared}
    rows = []
    for arm, of_benchmark in found.items():
        for benchmark, results in of_benchmark.items():
            values = [r.value for r in results]
            x = apart.get((benchmark, arm))
            rows.append(
                {
                    "benchmark": benchmark,
                    "arm": arm,
                    "value": fmean(values),
                    "seeds from": min(values) if len(values) > 1 else None,
                    "seeds to": max(values) if len(values) > 1 else None,
                    **{of: getattr(x, of, None) for of in ("difference", "low", "high")},
                    "better": results[0].better,
                    "at chance": all_at_chance(results, evaluate.confidence),
                    "limited to": results[0].comparable.get("limit"),
                }
            )
    return pd.DataFrame(rows)
