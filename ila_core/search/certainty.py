"""Which layers' place in a ranking is sure: whether every search seed puts them on one side."""

from ila_core.search.ranking import Ranking, kept_count, order


def unsure_layers(ranking: Ranking, dataset: str, keep: float) -> tuple[str, ...] | None:
    """Return the layers that some search seeds keep and others freeze, in layer order.

    A seed's cut is its own: the `kept_count(keep, N)` layers that its scores put highest. So a
    layer far from the cut is sure however its score varies, and two seeds whose scores differ by a
    constant agree. `None` with one search seed: not known, which is not the same as sure.
    """
    seeds = ranking.seeds(dataset)
    if len(seeds) == 1:
        return None
    kept = kept_count(keep, len(ranking.layers))
    sides = [frozenset(order(ranking.scores(dataset, s), ranking.layers)[:kept]) for s in seeds]
    unsure = frozenset.union(*sides) - frozenset.intersection(*sides)
    return tuple(layer.name for layer in ranking.layers if layer.name in unsure)
