"""The selection contract: what was asked to train trained, and nothing else moved.

The field's commonest complaint is a selection that silently does nothing, so a breach is an error.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerState

from ila_core.config.base import FrozenResult
from ila_core.errors import CheckError, listed
from ila_core.models.experts import adapted_layers, adapts_experts

GRADIENT_STEPS = 3
"""Steps within which every selected layer must have had a gradient that is not zero."""


class Verification(FrozenResult):
    requested: int
    matched: int
    """Requested layers that hold trainable parameters."""
    trainable_parameters: int
    expected_parameters: int
    gradient_seen: int
    """Requested layers whose gradient was not zero."""
    frozen_tensors: int
    """Tensors that must not move; a LoRA layer's own base weight is one of them."""
    frozen_identical: int


class SelectionContract(TrainerCallback):  # type: ignore[misc]
    """Holds a training to its selection.

        contract = SelectionContract(model, layers, expected_parameters=...)
        train(model, rows, callbacks=[contract], ...)
        verification = contract.fulfilled()

    Args:
        model: with the method attached, before training.
        layers: full names of the layers to train.
        expected_parameters: what the method should make trainable, from the shapes alone.
        also: parameters outside the layers that train as well, by the base model's names.
        proof: part of the names of those parameters whose gradients count: others have one anyway.

    Raises:
        CheckError: names the layers in breach.
    """

    def __init__(
        self,
        model: Any,
        layers: Sequence[str],
        *,
        expected_parameters: int,
        also: Collection[str] = (),
        proof: str = "",
    ) -> None:
        self._layers, self._expected = list(layers), expected_parameters
        _refuse("requested more than once", [n for n, k in Counter(layers).items() if k > 1])
        tensors = dict(base_parameters(model))
        self._trainable = {n: t for n, t in tensors.items() if t.requires_grad}
        owners = {n: owner_of(n, set(layers)) for n in self._trainable if n not in set(also)}
        matched = set(owners.values())
        _refuse("requested, but nothing in it trains", [n for n in layers if n not in matched])
        _refuse("trains without having been requested", [n for n, o in owners.items() if o is None])
        self._matched = len(matched)
        self._parameters = sum(t.numel() for t in self._trainable.values())
        if self._parameters != expected_parameters:
            raise CheckError(
                f"{self._parameters:,} parameters are trainable, {expected_parameters:,} expected "
                f"for {len(layers)} layers"
            )
        self._owners = {n: owner for n, owner in owners.items() if proof in n}
        self._without_gradient = set(layers)
        self._frozen = {n: t for n, t in tensors.items() if n not in self._trainable}
        self._digests = {name: tensor_digest(tensor) for name, tensor in self._frozen.items()}

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if not self._without_gradient or state.global_step >= GRADIENT_STEPS:
            return
        for name, tensor in self._trainable.items():
            owner = self._owners.get(name)
            if owner in self._without_gradient and tensor.grad is not None and tensor.grad.any():
                self._without_gradient.discard(owner)
        if state.global_step == GRADIENT_STEPS - 1:
            self._refuse_without_gradient()

    def state(self) -> dict[str, Any]:
        return {"without_gradient": sorted(self._without_gradient)}

    def restore(self, state: dict[str, Any]) -> None:
        self._without_gradient = set(state["without_gradient"])

    def fulfilled(self) -> Verification:
        """Check what only the end can tell, and return the record of all checks."""
        self._refuse_without_gradient()
        moved = [n for n, t in self._frozen.items() if tensor_digest(t) != self._digests[n]]
        _refuse("frozen, but changed", moved)
        return Verification(
            requested=len(self._layers),
            matched=self._matched,
            trainable_parameters=self._parameters,
            expected_parameters=self._expected,
            gradient_seen=len(self._layers) - len(self._without_gradient),
            frozen_tensors=len(self._frozen),
            frozen_identical=len(self._frozen) - len(moved),
        )

    def _refuse_without_gradient(self) -> None:
        silent = [name for name in self._layers if name in self._without_gradient]
        _refuse(f"no gradient in the first {GRADIENT_STEPS} steps", silent)


def tensor_digest(tensor: Tensor) -> str:
    """Digest a tensor's bytes, whatever its type (4-bit storage included)."""
    flat = tensor.detach().contiguous().reshape(-1).cpu().view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()


def base_parameters(model: Any) -> Iterable[tuple[str, Tensor]]:
    """Yield parameters by the base model's own names, without PEFT's `.base_layer`.

    What PEFT adds to a tensor of experts gets that tensor's name, and no module's.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    added = {
        id(tensor): f"{name}.{own}"
        for name, layer in adapted_layers(base).items()
        if adapts_experts(layer)
        for own, tensor in layer.named_parameters()
        if not own.startswith("base_layer.")
    }
    for name, tensor in base.named_parameters():
        yield added.get(id(tensor)) or re.sub(r"(\.base_layer)+\.", ".", name), tensor


def owner_of(parameter: str, layers: Collection[str]) -> str | None:
    """Return the requested layer that a parameter is or belongs to, its longest dotted prefix."""
    parts = parameter.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in layers), None)


def _refuse(breach: str, names: Sequence[str]) -> None:
    if names:
        raise CheckError(f"selection not applied: {breach}: {listed(names)}")
