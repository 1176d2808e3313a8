"""What is left of an agreement beyond layer type: rank correlation within each type.

Two rankings may agree because both put `k_proj` low. Spearman's rho among the layers of one type
does not see that; pooled over types it is one number, with its chance level from permutations.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ila_core.config import Frozen
from ila_core.models.layers import Layer

FEWEST_LAYERS = 4
"""Fewest layers of a type that counts: three layers have only six orders."""
PERMUTATIONS = 2000
CONFIDENCE = 0.95


class WithinTypes(Frozen):
    """Two score columns compared among layers of one type, pooled over types."""

    a: str
    b: str
    by_type: dict[str, float]
    """Spearman's rho of every type that counts."""
    left_out: tuple[str, ...]
    """Types of fewer than four layers, and those where a column gives all layers one score."""
    n_layers: int
    """Layers of the types that count."""
    rho: float | None
    """Mean over those types, weighted by layers; `None` where there is none."""
    chance_low: float | None
    chance_high: float | None
    """Where rho lies in 95 of 100 permutations within types."""
    p_value: float | None
    """Share of permutations with a rho at least as high, the observed one among them."""

    @property
    def above_chance(self) -> bool:
        """Whether the columns are more alike than 97.5 % of permutations within types."""
        return self.rho is not None and self.chance_high is not None and self.rho > self.chance_high


def correlation_within_types(
    layers: Sequence[Layer],
    *,
    a: tuple[str, Mapping[str, float]],
    b: tuple[str, Mapping[str, float]],
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> WithinTypes:
    """Compute Spearman's rho of two named score columns within types, ties by average ranks."""
    from scipy import stats

    rng = np.random.default_rng(seed)
    by_type: dict[str, float] = {}
    left_out = []
    total, n_layers = np.zeros(1 + permutations), 0
    for kind in dict.fromkeys(layer.type for layer in layers):
        names = [layer.name for layer in layers if layer.type == kind]
        ranks = [stats.rankdata([scores[name] for name in names]) for _, scores in (a, b)]
        if len(names) < FEWEST_LAYERS or any(np.ptp(r) == 0 for r in ranks):
            left_out.append(kind)
            continue
        x, y = ((r - r.mean()) / np.linalg.norm(r - r.mean()) for r in ranks)
        shuffled = rng.permuted(np.tile(y, (permutations, 1)), axis=1)
        by_type[kind] = float(x @ y)
        total += len(names) * np.append(x @ y, shuffled @ x)
        n_layers += len(names)
    found: dict[str, float | None] = dict.fromkeys(("rho", "chance_low", "chance_high", "p_value"))
    if n_layers:
        rho, chance = total[0] / n_layers, total[1:] / n_layers
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(chance, (tail, 1 - tail))
        at_least = 1 + int((chance >= rho - 1e-12).sum())
        found = {
            "rho": float(rho),
            "chance_low": float(low),
            "chance_high": float(high),
            "p_value": at_least / (1 + permutations),
        }
    return WithinTypes(
        a=a[0], b=b[0], by_type=by_type, left_out=tuple(left_out), n_layers=n_layers, **found
    )
