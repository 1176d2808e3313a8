"""Empirical Fisher information of the adapter's own parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ila_core.models.loading import in_float64
from ila_core.search.scoring import (
    Material,
    Needs,
    ScoreResult,
    backward,
    tokens_of,
    trainable_alone,
)

if TYPE_CHECKING:
    from torch import Tensor


class Fisher:
    needs: Needs = "rows"
    version = 1

    def score(self, material: Material) -> ScoreResult:
        """Squared gradient of the loss by A and B, mean over batches, summed over a layer.

        Batch by batch, not conversation by conversation (as many passes as conversations): by n
        independent conversations of equal length this is 1/n of the usual empirical Fisher
        information plus the squared mean gradient, which a trained adapter has little of.
        """
        from ila_core.train.loss import TokenLoss, eval_mode

        model, batches = material.model, material.batches()
        layers = material.adapted_layers()
        weights = {
            name: (layer.lora_A["default"].weight, layer.lora_B["default"].weight)
            for name, layer in layers.items()
        }
        parameters = [p for pair in weights.values() for p in pair]
        sums = dict.fromkeys(layers, 0.0)
        with trainable_alone(model, parameters), eval_mode(model):
            loss = TokenLoss(model)
            for rows in batches:
                for p in parameters:
                    p.grad = None
                backward(model, loss, rows, material.micro_batch)
                squares = [_squared_gradient(pair) for pair in weights.values()]
                for name, square in zip(layers, squares, strict=True):
                    sums[name] += float(square) / len(batches)
        return ScoreResult(scores=sums, cost_tokens=sum(map(tokens_of, batches)))


def _squared_gradient(parameters: Iterable[Any]) -> Tensor:
    """Summed in float64; a parameter that no row reached has none."""
    import torch

    squares = [in_float64(p.grad).square().sum() for p in parameters if p.grad is not None]
    return torch.stack(squares).sum() if squares else torch.zeros((), dtype=torch.float64)
