"""All tables as pandas DataFrames, which the page, the command line and Prefect share.

Cells are values; `formatted` converts them to text.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import pandas as pd
from pandas.api.types import is_bool

from ila_core.config import SearchConfig
from ila_core.models.layers import Layer
from ila_core.report.comparison import ArmResult, Difference, Payload
from ila_core.search.agreement import Agreement, compare
from ila_core.search.agreement_within_types import WithinTypes
from ila_core.search.certainty import unsure_layers
from ila_core.search.mask_curve import MaskCurves
from ila_core.search.ranking import Ranking, kept_count, order
from ila_core.search.scorers import IN_NATS
from ila_core.selection.selection import Selection

OUTSIDE = "outside"
"""Column of `layers_grid` for layers that belong to no block, such as `lm_head`."""
CURVE_POINTS = 40


def ranking_table(ranking: Ranking, keep: float) -> pd.DataFrame:
    """Tabulate the layers, most important first (mean rank over datasets).

    The column `unsure on` exists only with several search seeds, so that an empty cell means sure.
    """
    ranks = {d: _ranks(ranking, d) for d in ranking.datasets}
    kept = kept_count(keep, len(ranking.layers))
    unsure = {
        d: names for d in ranking.datasets if (names := unsure_layers(ranking, d, keep)) is not None
    }
    rows = []
    for layer in ranking.layers:
        row: dict[str, object] = {"layer": layer.name, "weights": layer.weights}
        for d in ranking.datasets:
            row[f"{d} score"] = fmean(layer.scores[d].values())
            row[f"{d} rank"] = ranks[d][layer.name]
        row["frozen by"] = ", ".join(d for d in ranking.datasets if ranks[d][layer.name] > kept)
        if unsure:
            row["unsure on"] = ", ".join(d for d, names in unsure.items() if layer.name in names)
        rows.append((fmean(ranks[d][layer.name] for d in ranking.datasets), row))
    return pd.DataFrame([row for _, row in sorted(rows, key=lambda pair: pair[0])])


def layers_grid(layers: Sequence[Layer], scores: Mapping[str, float]) -> pd.DataFrame:
    """Arrange scores with layer types as rows and blocks as columns (Fig. 1)."""
    cells = [
        {"type": x.type, "block": OUTSIDE if x.block is None else x.block, "score": scores[x.name]}
        for x in layers
    ]
    grid = pd.DataFrame(cells).pivot(index="type", columns="block", values="score")
    blocks = sorted({x.block for x in layers if x.block is not None})
    outside = [OUTSIDE] if any(x.block is None for x in layers) else []
    types = list(dict.fromkeys(x.type for x in layers))
    return grid.reindex(index=types, columns=[*blocks, *outside])


def agreement_table(agreements: Sequence[Agreement]) -> pd.DataFrame:
    """Tabulate the agreement of each pair, beside chance and chance within layer types."""
    return pd.DataFrame(
        {
            "first": x.a,
            "second": x.b,
            "Jaccard": x.jaccard,
            "chance": x.chance_jaccard,
            "99th pct": x.p99_jaccard,
            "above": x.above_chance,
            "chance in types": x.chance_within_types_jaccard,
            "99th pct in types": x.p99_within_types_jaccard,
            "above in types": x.above_type_chance,
            "kappa": x.kappa,
            "shared frozen": f"{x.shared_frozen} of {x.n_frozen}",
        }
        for x in agreements
    )


def arms_table(arms: Sequence[ArmResult], selections: Mapping[str, Selection]) -> pd.DataFrame:
    """Tabulate each arm's loss and difference, at the last and the best step, and its cost."""
    rows = []
    for x in arms:
        selection = selections.get(x.arm)
        source = selection.source if selection else None
        rows.append(
            {
                "arm": x.arm,
                "policy": f"{x.policy} ({source})" if source else x.policy,
                "loss": x.loss,
                **_difference(x.versus),
                "best step": None if x.best_step is None else f"{x.best_step} of {x.steps}",
                "loss at best": x.best_loss,
                **_difference(x.versus_at_best, " at best"),
                "seeds from": min(x.losses.values()) if len(x.losses) > 1 else None,
                "seeds to": max(x.losses.values()) if len(x.losses) > 1 else None,
                "frozen layers": len(selection.frozen) if selection else None,
                "trainable": x.trainable_parameters,
                "time": x.seconds,
                "peak memory": x.peak_memory_bytes,
            }
        )
    return pd.DataFrame(rows)


def controls_table(arms: Sequence[ArmResult], selections: Mapping[str, Selection]) -> pd.DataFrame:
    """Tabulate each arm's differences to its random controls, at the last and the best step."""
    return pd.DataFrame(
        {
            "arm": x.arm,
            "random control": c.against,
            "equal": c.match,
            "parameters apart": selections[c.against].details.get("difference"),
            **_difference(c),
            **_difference(c.at_best, " at best"),
        }
        for x in arms
        for c in x.controls
    )


def within_types_table(found: Sequence[WithinTypes]) -> pd.DataFrame:
    """Tabulate each pair's rank correlation within layer types, beside chance."""
    return pd.DataFrame(
        {
            "first": x.a,
            "second": x.b,
            "rho in types": x.rho,
            "chance from": x.chance_low,
            "chance to": x.chance_high,
            "above": x.above_chance,
            **{f"rho {kind}": rho for kind, rho in x.by_type.items()},
        }
        for x in found
    )


def scorers_table(
    ranking: Ranking,
    search: SearchConfig,
    scores: Sequence[Payload],
    masks: Sequence[Payload],
) -> pd.DataFrame:
    """Tabulate each dataset and scorer: mask curve beside random orders, agreement and cost.

    `above random` is the random orders' mean held-out loss minus the scorer's, in nats per token
    (`AreaBetween`); the paper's method is the scorer `ila`.
    """
    rows = []
    for found in masks:
        curves = MaskCurves.model_validate(found["count"])
        columns = {
            s["scorer"]: s
            for s in scores
            if (s["dataset"], s["seed"]) == (found["dataset"], found["seed"])
        }
        for name in curves.orders:
            area, typed = curves.area(name), None
            if name in curves.within_types:
                typed = curves.area(name, "random within types")
            agreed = compare(
                ranking.layers,
                search.keep,
                kind="datasets",
                a=(name, columns[name]["scores"]),
                b=(search.scorer, columns[search.scorer]["scores"]),
            )
            rows.append(
                {
                    "dataset": found["dataset"],
                    "scorer": name,
                    "above random": area.height,
                    "from": area.low,
                    "to": area.high,
                    "random beaten": f"{area.beaten} of {area.n_random}",
                    "above random in types": typed.height if typed else None,
                    "in types from": typed.low if typed else None,
                    "in types to": typed.high if typed else None,
                    f"Jaccard with {search.scorer}": agreed.jaccard,
                    "time": columns[name]["seconds"],
                }
            )
    return pd.DataFrame(rows)


def nats_table(ranking: Ranking, scores: Sequence[Payload]) -> pd.DataFrame:
    """Tabulate the loss in nats that each layer's update saves, per dataset, averaged over seeds.

    Integrated gradients sum to what the whole update saves on their rows, up to the error of the
    midpoint rule and of one batch per point, which the second row shows. Empty without them.
    """
    columns: dict[str, dict[str, float]] = {}
    for dataset in ranking.datasets:
        found = [s for s in scores if s["dataset"] == dataset and s["scorer"] == IN_NATS]
        if not found:
            continue
        means = {x.name: fmean(s["scores"][x.name] for s in found) for x in ranking.layers}
        remainder = fmean(s["remainder"] for s in found)
        columns[dataset] = {
            "the whole update": sum(means.values()) + remainder,
            "not attributed": remainder,
            **means,
        }
    table = pd.DataFrame(columns)
    whole, layers = table.iloc[:2], table.iloc[2:]
    layers = layers.loc[layers.mean(axis=1).sort_values(ascending=False, kind="stable").index]
    return pd.concat([whole, layers]).rename_axis("update of").reset_index()


def prepared_table(prepared: Mapping[str, Payload]) -> pd.DataFrame:
    """Tabulate each dataset's rows per split, those left out by reason, and what was cut."""
    reasons = sorted({reason for p in prepared.values() for reason in p["dropped"]})
    return pd.DataFrame(
        {
            "dataset": dataset,
            **{split.replace("_", " "): n for split, n in p["rows"].items()},
            "loss tokens": sum(t["loss"] for t in p["tokens"].values()),
            **{f"dropped: {reason}": p["dropped"].get(reason, 0) for reason in reasons},
            "unreadable": p["unreadable"],
            "duplicates": p["duplicates"],
            "truncated": p["truncated"],
            "tokens cut": p["tokens_cut"],
            "answers": p["answers"],
            "of which lost their end": p["ends_cut"],
        }
        for dataset, p in prepared.items()
    )


def search_table(stage1: Sequence[Payload], stage2: Sequence[Payload]) -> pd.DataFrame:
    """Tabulate where stage 1 stopped for each dataset and seed, and what both stages cost.

    Args:
        stage2: scores of the ranking's own scorer, which may be another one than the gates.
    """
    gates = {(s["dataset"], s["seed"]): s for s in stage2}
    rows = []
    for s in stage1:
        second = gates[s["dataset"], s["seed"]]
        memory = [x["peak_memory_bytes"] for x in (s, second) if x.get("peak_memory_bytes")]
        rows.append(
            {
                "dataset": s["dataset"],
                "seed": s["seed"],
                "steps": s["steps"],
                "planned": s["planned_steps"],
                "stable": s["stable_by"] or "no",
                "first loss": s["losses"][0],
                "last loss": s["losses"][-1],
                "stage 1": s["seconds"],
                "scores": second["seconds"],
                "peak memory": max(memory, default=None),
            }
        )
    return pd.DataFrame(rows)


def loss_curves(stage1: Sequence[Payload]) -> pd.DataFrame:
    """Average the stage-1 loss over windows of equal width, one column per dataset and seed."""
    width = max(1, -(-max(len(s["losses"]) for s in stage1) // CURVE_POINTS))
    columns = {
        f"{s['dataset']} seed {s['seed']}": {
            min(start + width, len(s["losses"])): fmean(s["losses"][start : start + width])
            for start in range(0, len(s["losses"]), width)
        }
        for s in stage1
    }
    return pd.DataFrame(columns).sort_index().rename_axis("step")


def score_curves(ranking: Ranking, stage2: Sequence[Payload]) -> pd.DataFrame:
    """Average the stage-2 scores of each step over seeds and layers, one column per layer type."""
    kinds = {layer.name: layer.type for layer in ranking.layers}
    cells = [
        {"dataset": s["dataset"], "step": step, "type": kinds[name], "score": score}
        for s in stage2
        for step, scores in s["history"]
        for name, score in scores.items()
    ]
    table = pd.DataFrame(cells).pivot_table(
        index=["dataset", "step"], columns="type", values="score", sort=False
    )
    return table.reindex(columns=list(dict.fromkeys(kinds.values()))).rename_axis(columns=None)


def flat_table(nested: Mapping[str, object], *, name: str, value: str) -> pd.DataFrame:
    """Flatten a nested mapping to two columns, with keys joined by dots."""
    return pd.DataFrame(_flat(nested), columns=[name, value])


def formatted(frame: pd.DataFrame) -> pd.DataFrame:
    """Format the table's values as text; a missing one is a dash."""
    return pd.DataFrame({c: [_text(str(c), value) for value in frame[c]] for c in frame.columns})


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def memory(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"


_FORMATS: dict[str, Callable[[Any], str]] = {
    **dict.fromkeys(["Jaccard", "chance", "99th pct", "kappa"], "{:.3f}".format),
    **dict.fromkeys(["chance in types", "99th pct in types"], "{:.3f}".format),
    **dict.fromkeys(["difference", "low", "high"], "{:+.4f}".format),
    **dict.fromkeys(["difference at best", "low at best", "high at best"], "{:+.4f}".format),
    **dict.fromkeys(["low over seeds", "high over seeds", "improvement"], "{:+.4f}".format),
    "at least": "{:+g}".format,
    **dict.fromkeys(["above random", "from", "to"], "{:+.3f}".format),
    **dict.fromkeys(["above random in types", "in types from", "in types to"], "{:+.3f}".format),
    **dict.fromkeys(["rho in types", "chance from", "chance to"], "{:+.2f}".format),
    **dict.fromkeys(["time", "stage 1", "scores"], duration),
    "parameters apart": "{:+,}".format,
    **dict.fromkeys(["peak memory", "measured", "forecast", "forecast, 2 x 1,024"], memory),
    "forecast error": "{:+.0%}".format,
}


def _difference(found: Difference | None, at: str = "") -> dict[str, object]:
    fields = ("difference", "low", "high", "verdict")
    return {f"{field}{at}": getattr(found, field, None) for field in fields}


def _ranks(ranking: Ranking, dataset: str) -> dict[str, int]:
    by_score = order(ranking.scores(dataset), ranking.layers)
    return {name: rank for rank, name in enumerate(by_score, start=1)}


def _flat(nested: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", "-" if value is None else str(value)))
    return rows


def _text(column: str, value: Any) -> str:
    if value is None or value != value:  # NaN
        return "-"
    if column in _FORMATS:
        return _FORMATS[column](value)
    if column.endswith("of 100 %"):
        return f"{value:.3f}"
    if column.startswith("paper"):
        return f"{value:g}"
    if isinstance(value, str):
        return value
    if is_bool(value):
        return "yes" if value else "no"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4f}"
