"""The output of `ila finetune` and `ila forecast`."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import typer

from flows.views.printing import print_json, print_table
from ila_core.config import BASE, ArmConfig, Profile
from ila_core.search.ranking import Ranking
from ila_core.search.ranking_reference import ResolvedRanking
from ila_core.selection.select import reason
from ila_core.selection.selection import Selection
from ila_core.train.forecast import Forecast


def show_finetune(
    profile: Profile,
    selection: Selection,
    ranking: Ranking | None,
    given: ResolvedRanking | None,
    results: Sequence[Mapping[str, Any]],
    evaluations: Sequence[Mapping[str, Any]],
    forecast: Mapping[str, int],
    *,
    as_json: bool,
) -> None:
    """Print the selected layers and why, each seed's contract and loss, and forecast memory.

    Args:
        forecast: bytes by what they are for; empty where nothing can be forecast.
    """
    from ila_core.report.tables import duration, memory

    method = results[0]["method"]
    why = reason(selection.policy, selection.source, selection.train, selection.frozen, ranking)
    losses = {e["seed"]: e["loss"] for e in evaluations if e["arm"] != BASE}
    base = next(e["loss"] for e in evaluations if e["arm"] == BASE)
    expected = sum(forecast.values())
    if as_json:
        return print_json(
            {
                "profile": profile.name,
                "dataset": profile.finetune.dataset,
                "method": method,
                "why": why,
                "ranking": ranking_used(given),
                "selection": selection.model_dump(mode="json"),
                "held_out_loss": {"base": base, **{str(s): x for s, x in losses.items()}},
                "forecast_bytes": dict(forecast),
                "runs": [
                    {k: r[k] for k in ("seed", "key", "folder", "verification", "ranks")}
                    | {
                        k: r.get(k)
                        for k in ("seconds", "peak_memory_bytes", "peak_allocated_bytes")
                    }
                    for r in results
                ],
            }
        )
    say_ranking(given)
    typer.echo(why)
    for r in results:
        proof = r["verification"]
        typer.echo(
            f"seed {r['seed']}: {method}, {r['trainable_parameters']:,} parameters as expected, "
            f"gradients in {proof['gradient_seen']} of {proof['requested']} layers, "
            f"{proof['frozen_identical']} of {proof['frozen_tensors']} frozen tensors identical"
        )
        if r["ranks"]:
            ranks = r["ranks"].values()
            typer.echo(f"  ranks fell to {sum(ranks)} in all, {min(ranks)} to {max(ranks)} a layer")
        found = r.get("peak_allocated_bytes")
        line = (
            f"  {duration(r['seconds'])}; held-out loss {losses[r['seed']]:.4f} (base {base:.4f})"
        )
        if found:
            line += f"; memory {memory(found)}"
        if found and expected:
            line += f", forecast {memory(expected)} ({expected / found - 1:+.0%})"
        typer.echo(line)
        typer.echo(f"  key:{r['key']}  {r['folder']}")
    if len(losses) > 1:
        spread = max(losses.values()) - min(losses.values())
        typer.echo(f"held-out loss {fmean(losses.values()):.4f}, seeds differ by {spread:.4f}")


def show_forecast(
    profile: Profile,
    arm: ArmConfig,
    source: str,
    given: ResolvedRanking | None,
    rows: Sequence[Mapping[str, Any]],
    forecast: Forecast,
    *,
    as_json: bool,
) -> None:
    """Print the cost of each percentage of the layers, best layers first."""
    from ila_core.report.tables import duration, memory

    method, speed = profile.finetune.method_of(arm), forecast.flops_per_second
    everything = forecast.parts([layer.name for layer in forecast.layers])
    if as_json:
        return print_json(
            {
                "profile": profile.name,
                "method": method,
                "source": source,
                "ranking": ranking_used(given),
                "flops_per_second": speed,
                "rows": list(rows),
                "bytes_of_all_layers": everything,
            }
        )
    say_ranking(given)
    whole = rows[-1]
    print_table(
        ["of the layers", "layers", "trainable", "of all", "memory", "of all", "time"],
        [
            [
                f"{r['of the layers']:.0%}",
                str(r["layers"]),
                f"{r['trainable']:,}",
                f"{r['trainable'] / whole['trainable']:.0%}",
                memory(r["memory"]),
                f"{r['memory'] / whole['memory']:.0%}",
                duration(r["time"]) if r["time"] is not None else "-",
            ]
            for r in rows
        ],
    )
    typer.echo(f"by {method}, layers by score on {source}, best first")
    typer.echo("all layers: " + ", ".join(f"{k} {memory(v)}" for k, v in everything.items()))
    if speed is None:
        typer.echo("time is unknown: no stage 1 of this profile has finished in this cache")
    else:
        typer.echo(f"{speed:.2g} operations a second, measured in stage 1 here")


def ranking_used(given: ResolvedRanking | None) -> dict[str, str | None] | None:
    """Return the given ranking for JSON output; `None` for the search's own."""
    if given is None:
        return None
    return {
        "reference": given.reference,
        "pinned": given.pinned,
        "digest": given.digest,
        "base_model": given.ranking.base_model,
        "relation": given.relation,
    }


def say_ranking(given: ResolvedRanking | None) -> None:
    """Print the given ranking on one line; print nothing for the search's own."""
    if given is None:
        return
    line = f"ranking {given.said}, digest {given.digest[:12]}, of {given.ranking.base_model}"
    if given.relation is not None:
        line += f"; the model trained here is declared {given.relation} of that"
    typer.echo(line)
