"""The table of layers in an export: shape, scores, whether it trains, and why."""

from typing import Any

from ila_core.export.base import Export
from ila_core.search.ranking import order


def layer_rows(wanted: Export) -> list[dict[str, Any]]:
    """Tabulate the layers in layer order; scores are means over the search seeds."""
    ranking = wanted.ranking
    scores = {name: ranking.scores(name) for name in ranking.datasets}
    places = {
        dataset: {name: place for place, name in enumerate(order(of, ranking.layers), start=1)}
        for dataset, of in scores.items()
    }
    trained = set(wanted.selection.train)
    rows = []
    for layer in ranking.layers:
        at = ", ".join(f"{places[d][layer.name]} on {d}" for d in scores)
        verb = "trains" if layer.name in trained else "is frozen"
        rank = (wanted.ranks or {}).get(layer.name, wanted.r)
        rows.append(
            {
                "name": layer.name,
                "block": layer.block,
                "type": layer.type,
                "shape": list(layer.shape),
                "parameters": layer.weights,
                "scores": {dataset: of[layer.name] for dataset, of in scores.items()},
                "trained": int(layer.name in trained),
                "rank": rank if layer.name in trained and wanted.method == "lora" else None,
                "why": f"{verb} by {wanted.selection.policy}: place {at} of {len(ranking.layers)}",
            }
        )
    return rows
