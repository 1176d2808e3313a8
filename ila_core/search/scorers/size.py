"""The trivial ranking every other one stands beside: the larger a matrix, the more important.

On grouped-query models the search freezes mostly `k_proj` and `v_proj`, the smallest matrices, and
so does this rule (they agree at 0.73-0.88 on stories3m): a search has to say more than that.
"""

from collections.abc import Sequence

from ila_core.models.layers import Layer
from ila_core.search.scoring import Material, Needs, ScoreResult


class Size:
    needs: Needs = "shapes"
    version = 1

    def score(self, material: Material) -> ScoreResult:
        """Number of weights of each layer."""
        return ScoreResult(scores=weights(material.layers), cost_tokens=0)


def weights(layers: Sequence[Layer]) -> dict[str, float]:
    """Number of weights per layer name."""
    return {layer.name: float(layer.weights) for layer in layers}
