"""How far stage 1 moved a layer: the Frobenius norm of its update."""

from typing import Any

from ila_core.models.experts import adapts_experts
from ila_core.models.loading import in_float64
from ila_core.search.scoring import Material, Needs, ScoreResult


class LoraNorm:
    needs: Needs = "adapter"
    version = 1

    def score(self, material: Material) -> ScoreResult:
        """||beta B A||_F of each layer (the update of Eq. 4)."""
        layers = material.adapted_layers()
        scores = {name: update_norm(layer) for name, layer in layers.items()}
        return ScoreResult(scores=scores, cost_tokens=0)


def update_norm(layer: Any) -> float:
    """||beta B A||_F without forming B A: ||B A||^2 = trace((B^T B)(A A^T)), r x r matrices.

    In float64: the trace cancels where the columns of B nearly do. Of experts, over all of them.
    """
    if adapts_experts(layer):
        b, a, _ = layer.get_delta_factors("default")  # (experts, ., r) and (experts, r, .)
    else:
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    a, b = in_float64(a.detach()), in_float64(b.detach())
    square = ((b.mT @ b) * (a @ a.mT)).sum().clamp(min=0)
    return float(layer.scaling["default"] * square.sqrt())
