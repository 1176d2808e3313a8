"""What a scorer is given, what it gives back, and the passes over rows that scorers share.

The scorers themselves are one file each in `ila_core/search/scorers`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import field_validator

from ila_core.config import ScorerSettings
from ila_core.config.base import FrozenResult
from ila_core.data.batches import (
    Row,
    check_rows,
    loss_tokens,
    packed_batches,
    plan_batches,
)
from ila_core.errors import CheckError, listed
from ila_core.models.layers import Layer
from ila_core.models.loading import in_float64
from ila_core.train.methods.lora import lora_layers

if TYPE_CHECKING:
    from torch import Tensor

    from ila_core.search.gates import Gates
    from ila_core.train.loss import TokenLoss

Needs = Literal["shapes", "weights", "adapter", "rows"]
"""The most that a scorer reads: names and shapes; the base model's weights; a trained stage-1
adapter; or that adapter and conversations."""

FORWARD = 1 / 3
"""Cost of a forward pass per token, where forward and backward together are 1."""


@dataclass(frozen=True)
class Material:
    """Everything a scorer may look at; it reads no more of it than its `needs` says."""

    layers: Sequence[Layer]
    model: Any
    """The base with the trained stage-1 adapter on it (`load_adapter`); for `weights` the base
    alone is enough, for `shapes` `None`. It comes back as it was."""
    rows: Sequence[Row]
    settings: ScorerSettings
    seed: int
    micro_batch: int
    """Most conversations per forward pass; moves scores by rounding only."""

    def adapted_layers(self) -> dict[str, Any]:
        """Return the LoRA layers of the model by name, in the order of `layers`.

        Raises:
            CheckError: a layer without an adapter, or an untrained one: where B = 0 every score of
                an adapter is 0, and the ranking would be the layers' order.
        """
        from ila_core.search.gates import check_trained

        found = lora_layers(self.model)
        missing = [layer.name for layer in self.layers if layer.name not in found]
        if missing:
            raise CheckError(
                f"no adapter on {listed(missing)}: score the layers that stage 1 trained, "
                "or train these as well"
            )
        check_trained(self.model)
        return {layer.name: found[layer.name] for layer in self.layers}

    def batches(self) -> list[list[Row]]:
        """Draw the rows of every batch by the seed; all are drawn once before one is again."""
        return [[self.rows[i] for i in numbers] for numbers in self._plan()]

    def sampled_rows(self) -> list[Row]:
        """Return the rows of all batches, each once."""
        return [self.rows[i] for i in dict.fromkeys(chain.from_iterable(self._plan()))]

    def _plan(self) -> list[list[int]]:
        settings = self.settings
        check_rows(self.rows, settings.batch_size)
        return plan_batches(len(self.rows), settings.batch_size, settings.batches, self.seed)


class ScoreResult(FrozenResult):
    """One score per layer, in layer order; larger is more important."""

    scores: dict[str, float]
    cost_tokens: float
    """Tokens read, a forward pass with its backward pass counting 1 and a forward pass alone 1/3.
    The stage 1 behind an adapter is not in it."""
    remainder: float | None = None
    """For scores that are to add up to a change of the loss: what they leave out, in nats."""

    @field_validator("scores")
    @classmethod
    def _finite(cls, scores: dict[str, float]) -> dict[str, float]:
        broken = [name for name, score in scores.items() if not math.isfinite(score)]
        if broken:
            raise CheckError(
                f"the score is not finite in {listed(broken)}; look at the weights, the adapter "
                "and the rows that went in"
            )
        return scores


class Scorer(Protocol):
    @property
    def needs(self) -> Needs: ...

    @property
    def version(self) -> int:
        """Raised when the same material would get other scores."""

    def score(self, material: Material) -> ScoreResult:
        """Score every layer of `material.layers`.

        Raises:
            UserError: too few rows for one batch, or a row without loss.
            CheckError: a layer without a trained adapter, or a score that is not finite.
        """


def base_weights(model: Any, layer: Layer) -> Tensor:
    """Return a base layer's weight, adapted or not, in float32: (1, out_features, in_features).

    A tensor of experts is returned as it is kept, and a quantised weight decompressed.
    """
    from peft.utils.integrations import dequantize_module_weight

    base = getattr(model, "get_base_model", lambda: model)()
    if layer.holds_experts:
        parent, _, own = layer.name.rpartition(".")
        module = base.get_submodule(parent)
        experts: Tensor = getattr(getattr(module, "get_base_layer", lambda: module)(), own)
        return experts.detach().float()
    module = base.get_submodule(layer.name)
    weight: Tensor = dequantize_module_weight(getattr(module, "base_layer", module))
    return weight.detach().float()[None]


def tokens_of(rows: Sequence[Row]) -> int:
    """Count the tokens that are read, with those that are not in the loss."""
    return sum(len(row.input_ids) for row in rows)


def backward(model: Any, loss: TokenLoss, rows: Sequence[Row], micro_batch: int) -> None:
    """Add the gradient of the rows' token-mean loss to whatever requires one."""
    device = next(model.parameters()).device
    total = sum(map(loss_tokens, rows))
    for batch in packed_batches(rows, micro_batch):
        loss.backward({key: value.to(device) for key, value in batch.items()}, total)


@contextmanager
def trainable_alone(model: Any, parameters: Sequence[Any]) -> Iterator[None]:
    """Let nothing but `parameters` require a gradient; restore flags and gradients afterwards."""
    before = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    try:
        model.requires_grad_(False)
        for p in parameters:
            p.requires_grad_(True)
            p.grad = None
        yield
    finally:
        for p, required, gradient in before:
            p.requires_grad_(required)
            p.grad = gradient


def gamma_gradient(
    model: Any,
    gates: Gates,
    loss: TokenLoss,
    rows: Sequence[Row],
    *,
    gamma: float,
    micro_batch: int,
) -> dict[str, float]:
    """Compute dL/dgamma of every gate with all gates at `gamma`, strictly between 0 and 1.

    L is the rows' token-mean loss in nats. From the score's gradient by the chain rule:
    dL/ds = dL/dgamma * gamma * (1 - gamma), as gamma = sigmoid(s) (Eq. 6).
    """
    import torch

    gates.fill(math.log(gamma / (1 - gamma)))
    parameters = gates.parameters
    for score in parameters.values():
        score.grad = None
    backward(model, loss, rows, micro_batch)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters.values()]
    slope = gamma * (1 - gamma)
    found = (in_float64(torch.cat(gradients)) / slope).tolist()
    return dict(zip(parameters, found, strict=True))


def mean_gains(
    material: Material, gates: Gates, batches: Sequence[Sequence[Row]], gammas: Sequence[float]
) -> dict[str, float]:
    """Compute -dL/dgamma of every layer, mean over batches, batch i at the i-th of `gammas`."""
    from ila_core.train.loss import TokenLoss

    model, size = material.model, material.micro_batch
    loss = TokenLoss(model)
    gradients = [
        gamma_gradient(model, gates, loss, rows, gamma=gamma, micro_batch=size)
        for rows, gamma in zip(batches, gammas, strict=True)
    ]
    return {x.name: -fmean(g[x.name] for g in gradients) for x in material.layers}
