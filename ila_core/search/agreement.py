"""How alike two rankings are, beside what chance alone would give.

Jaccard is taken on the kept sets (Table 2), Cohen's kappa on the frozen sets. Two random top-75 %
sets of 225 layers already have Jaccard 0.60, and two that share no more than their layer types far
more, so no agreement is given without both levels and their 99th percentiles:

    chance([(225, 56, 56)])  # Chance(expected=0.60, p99=0.66)

Everything counts ways to draw a set in whole numbers: the levels are exact, not sampled.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from math import comb, prod
from typing import Literal, NamedTuple

import numpy as np

from ila_core.config import Frozen
from ila_core.errors import UserError
from ila_core.models.layers import Layer
from ila_core.search.ranking import Ranking, kept_count, least, order
from ila_core.search.scorers.size import weights

Kind = Literal["datasets", "seeds", "size"]


class Chance(NamedTuple):
    """Jaccard on the kept sets of two independent random draws."""

    expected: float
    p99: float


class Agreement(Frozen):
    """Two rankings' selections compared at one kept fraction."""

    kind: Kind
    a: str
    b: str
    n_layers: int
    n_frozen: int
    """K, of each of the two."""
    shared_frozen: int
    jaccard: float
    kappa: float | None
    """`None` where nothing is frozen: there is no chance to correct for."""
    chance_jaccard: float
    p99_jaccard: float
    chance_within_types_jaccard: float
    p99_within_types_jaccard: float
    above_chance: bool
    """More alike than 99 % of random pairs."""
    above_type_chance: bool
    """More alike than 99 % of pairs that freeze as many of each type; below that an agreement says
    nothing about single layers."""


class Intersection(Frozen):
    """Layers among the K least important of every dataset. Its size is an outcome, never set."""

    datasets: tuple[str, ...]
    n_layers: int
    n_least: int
    """K per dataset."""
    frozen: tuple[str, ...]
    """The frozen layers, in layer order."""
    expected_size: float
    """Mean size for random sets of K."""
    expected_size_within_types: float
    """Mean size for random sets with each dataset's own number of every type."""


def jaccard_of_kept(n_layers: int, frozen_a: int, frozen_b: int, shared_frozen: int) -> float:
    """Jaccard of the kept sets, from the numbers of frozen layers; 1 when both keep nothing."""
    union = n_layers - shared_frozen
    return (n_layers - frozen_a - frozen_b + shared_frozen) / union if union else 1.0


def kappa_of_frozen(
    n_layers: int, frozen_a: int, frozen_b: int, shared_frozen: int
) -> float | None:
    """Cohen's kappa on the frozen sets: (o - K^2/N) / (K - K^2/N) for equal sizes K.

    For unequal sizes K is their mean and K^2 their product, which is Cohen's formula in general.
    """
    by_chance = frozen_a * frozen_b / n_layers
    room = (frozen_a + frozen_b) / 2 - by_chance
    return (shared_frozen - by_chance) / room if room else None


def chance(strata: Sequence[tuple[int, ...]]) -> Chance:
    """Return the exact chance level over independent strata of (layers, frozen by a, frozen by b).

    One stratum is the hypergeometric distribution; one per layer type is chance within types,
    where the mean overlap is the sum of k1 * k2 / n.
    """
    n_layers, frozen_a, frozen_b = (sum(column) for column in zip(*strata, strict=True))
    ways = _ways_to_share(strata)
    total = sum(ways)
    jaccards = [jaccard_of_kept(n_layers, frozen_a, frozen_b, o) for o in range(len(ways))]
    expected = sum(w / total * j for w, j in zip(ways, jaccards, strict=True))
    below = 0
    for w, jaccard in zip(ways, jaccards, strict=True):  # Jaccard rises with the overlap
        below += w
        if 100 * below >= 99 * total:
            return Chance(expected, jaccard)
    raise AssertionError("the largest overlap has everything at or below it")


def agreements(ranking: Ranking, keep: float) -> tuple[Agreement, ...]:
    """Compare all pairs of datasets, all pairs of a dataset's seeds, each dataset with `size`."""
    layers = ranking.layers
    means = {dataset: ranking.scores(dataset) for dataset in ranking.datasets}
    found = [
        compare(layers, keep, kind="datasets", a=(a, means[a]), b=(b, means[b]))
        for a, b in combinations(ranking.datasets, 2)
    ]
    for dataset in ranking.datasets:
        columns = [
            (f"{dataset} seed {s}", ranking.scores(dataset, s)) for s in ranking.seeds(dataset)
        ]
        found += [
            compare(layers, keep, kind="seeds", a=a, b=b) for a, b in combinations(columns, 2)
        ]
    by_size = ("size", weights(layers))
    found += [
        compare(layers, keep, kind="size", a=(dataset, scores), b=by_size)
        for dataset, scores in means.items()
    ]
    return tuple(found)


def agreements_between(ranking: Ranking, other: Ranking, keep: float) -> tuple[Agreement, ...]:
    """Compare every dataset of one ranking with every dataset of another over the same layers.

    Raises:
        UserError: when the two rank different layers.
    """
    shapes, other_shapes = ({x.name: x.shape for x in r.layers} for r in (ranking, other))
    if shapes != other_shapes:
        raise UserError(
            f"ranking {ranking.key} is over {len(shapes)} layers of {ranking.base_model}, ranking "
            f"{other.key} over {len(other_shapes)} others of {other.base_model}: compare rankings "
            "of one architecture"
        )
    return tuple(
        compare(
            ranking.layers,
            keep,
            kind="datasets",
            a=(f"{a} ({ranking.key})", ranking.scores(a)),
            b=(f"{b} ({other.key})", other.scores(b)),
        )
        for a in ranking.datasets
        for b in other.datasets
    )


def compare(
    layers: Sequence[Layer],
    keep: float,
    *,
    kind: Kind,
    a: tuple[str, Mapping[str, float]],
    b: tuple[str, Mapping[str, float]],
) -> Agreement:
    """Compare two named score columns over the same layers at the kept fraction."""
    n = len(layers)
    kept = kept_count(keep, n)
    frozen_a, frozen_b = (frozenset(order(scores, layers)[kept:]) for _, scores in (a, b))
    counts = (n, n - kept, n - kept)
    shared = len(frozen_a & frozen_b)
    jaccard = jaccard_of_kept(*counts, shared)
    anywhere = chance([counts])
    within_types = chance(_by_type(layers, frozen_a, frozen_b))
    return Agreement(
        kind=kind,
        a=a[0],
        b=b[0],
        n_layers=n,
        n_frozen=n - kept,
        shared_frozen=shared,
        jaccard=jaccard,
        kappa=kappa_of_frozen(*counts, shared),
        chance_jaccard=anywhere.expected,
        p99_jaccard=anywhere.p99,
        chance_within_types_jaccard=within_types.expected,
        p99_within_types_jaccard=within_types.p99,
        above_chance=jaccard > anywhere.p99,
        above_type_chance=jaccard > within_types.p99,
    )


def intersection(ranking: Ranking, fraction: float) -> Intersection:
    """Find the layers that every dataset puts among its least important `fraction`."""
    layers = ranking.layers
    per_dataset = [least(ranking.scores(d), layers, fraction) for d in ranking.datasets]
    frozen = frozenset.intersection(*per_dataset)
    n, n_least = len(layers), len(per_dataset[0])
    return Intersection(
        datasets=ranking.datasets,
        n_layers=n,
        n_least=n_least,
        frozen=tuple(layer.name for layer in layers if layer.name in frozen),
        expected_size=n * (n_least / n) ** len(per_dataset),
        expected_size_within_types=sum(
            n_type * prod(k / n_type for k in ks) for n_type, *ks in _by_type(layers, *per_dataset)
        ),
    )


def outvoted(ranking: Ranking, fraction: float, votes: int) -> frozenset[str]:
    """Find the layers that at least `votes` datasets put among their least important `fraction`."""
    layers = ranking.layers
    found = Counter(
        name for d in ranking.datasets for name in least(ranking.scores(d), layers, fraction)
    )
    return frozenset(name for name, n in found.items() if n >= votes)


def _by_type(layers: Sequence[Layer], *sets: Collection[str]) -> list[tuple[int, ...]]:
    """Count per layer type how many layers there are, and how many of them each set has."""
    counts = [Counter(layer.type for layer in layers)]
    counts += [Counter(layer.type for layer in layers if layer.name in s) for s in sets]
    return [tuple(c[kind] for c in counts) for kind in counts[0]]


def _ways_to_share(strata: Sequence[tuple[int, ...]]) -> list[int]:
    """Return `ways`: `ways[o]` draws of the second set share o layers with the first one."""
    ways = np.array([1], dtype=object)  # whole numbers beyond 64 bits
    for n, a, b in strata:
        here = [comb(a, o) * comb(n - a, b - o) for o in range(min(a, b) + 1)]
        ways = np.convolve(ways, np.array(here, dtype=object))
    return list(ways)
