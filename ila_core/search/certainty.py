"""Which layers' place in a ranking is sure: whether every search seed puts them on one side."""

from statistics import fmean, stdev

from ila_core.config import Frozen
from ila_core.search.ranking import Ranking, kept_count, order


class LayerCertainty(Frozen):
    name: str
    mean: float
    """Score, over search seeds."""
    spread: float | None
    """Standard deviation over search seeds (n - 1); `None` with one seed."""
    kept_by: int
    """Search seeds whose own ranking keeps the layer."""
    unsure: bool | None
    """Whether some seeds keep the layer and others freeze it. `None` with one seed: not known,
    which is not the same as sure."""


def certainty(ranking: Ranking, dataset: str, keep: float) -> tuple[LayerCertainty, ...]:
    """Every layer of one dataset's ranking, in layer order.

    A seed's cut is its own: the `kept_count(keep, N)` layers that its scores put highest. So a
    layer far from the cut is sure however its score varies, and two seeds whose scores differ by a
    constant agree.
    """
    seeds = ranking.seeds(dataset)
    kept = kept_count(keep, len(ranking.layers))
    sides = [frozenset(order(ranking.scores(dataset, s), ranking.layers)[:kept]) for s in seeds]
    found = []
    for layer in ranking.layers:
        scores = list(layer.scores[dataset].values())
        kept_by = sum(layer.name in side for side in sides)
        several = len(seeds) > 1
        found.append(
            LayerCertainty(
                name=layer.name,
                mean=fmean(scores),
                spread=stdev(scores) if several else None,
                kept_by=kept_by,
                unsure=0 < kept_by < len(seeds) if several else None,
            )
        )
    return tuple(found)


def unsure_layers(ranking: Ranking, dataset: str, keep: float) -> tuple[str, ...] | None:
    """Names of the unsure layers in layer order; `None` with one search seed."""
    found = certainty(ranking, dataset, keep)
    if len(ranking.seeds(dataset)) == 1:
        return None
    return tuple(layer.name for layer in found if layer.unsure)
