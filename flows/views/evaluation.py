"""The output of `ila evaluate`: every model and benchmark, with interval and chance level."""

from collections.abc import Mapping, Sequence

import typer

from flows.results.evaluation import Measured
from flows.views.printing import print_json, print_table
from ila_core.compare.chance import at_chance, interval
from ila_core.compare.judge_spread import judged_again
from ila_core.config import Profile


def show_evaluation(profile: Profile, found: Sequence[Measured], *, as_json: bool) -> None:
    """Print one row per model, seed and benchmark; JSON has subjects and categories too."""
    evaluate = profile.evaluate
    if as_json:
        return print_json(
            {
                "profile": profile.name,
                "limit": evaluate.limit,
                "evaluations": [_as_json(m, evaluate.confidence) for m in found],
            }
        )
    rows = [_row(m, evaluate.confidence) for m in found]
    header = [
        "benchmark",
        "model",
        "seed",
        "value",
        f"{evaluate.confidence:.0%} interval over items",
    ]
    print_table([*header, "chance", "items", "beside it", "key"], rows)
    if evaluate.limit is not None:
        typer.echo(f"limited to {evaluate.limit} questions a task: a look, no evaluation")
    for unit, benchmarks in _units(found).items():
        typer.echo(f"{', '.join(benchmarks)}: {unit}")


def _row(m: Measured, confidence: float) -> list[str]:
    result = m.result
    low, high = interval(result, confidence=confidence)
    chance = "" if result.chance is None else f"{result.chance:.4g}"
    if at_chance(result, confidence=confidence):
        chance += ", at chance"
    return [
        result.benchmark,
        m.arm,
        "-" if m.seed is None else str(m.seed),
        f"{result.value:.4f}",
        f"{low:.4f} to {high:.4f}",
        chance,
        f"{len(result.items):,}",
        beside(result.counts, judged_again(result, confidence=confidence)),
        f"key:{m.key}",
    ]


def beside(counts: Mapping[str, int], again: tuple[float, float] | None) -> str:
    """Format what stands beside a value: its counts, and the interval over repeated grades."""
    said = [f"{n} {what}" for what, n in counts.items() if n]
    if again is not None:
        said.append(f"judged again {again[0]:.3f} to {again[1]:.3f}")
    return ", ".join(said)


def _as_json(m: Measured, confidence: float) -> dict[str, object]:
    result = m.result
    low, high = interval(result, confidence=confidence)
    return {
        "benchmark": result.benchmark,
        "model": m.arm,
        "seed": m.seed,
        "key": m.key,
        "value": result.value,
        "macro": result.macro,
        "low": low,
        "high": high,
        "unit": result.unit,
        "better": result.better,
        "chance": result.chance,
        "judged_again": judged_again(result, confidence=confidence),
        "at_chance": at_chance(result, confidence=confidence),
        "items": len(result.items),
        "groups": result.groups,
        "counts": result.counts,
        "comparable": result.comparable,
    }


def _units(found: Sequence[Measured]) -> dict[str, list[str]]:
    units: dict[str, list[str]] = {}
    for name, result in {m.result.benchmark: m.result for m in found}.items():
        units.setdefault(f"{result.unit}, {result.better} is better", []).append(name)
    return units
