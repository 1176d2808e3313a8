"""Memory and time of a fine-tuning before it runs, for every selection of layers.

Bytes are counted, not fitted: the model's forward pass runs once on the meta device, with every
layer trained and the training's own arithmetic, and each tensor that autograd saves is recorded
with the layer that saves it. A selection saves those of its layers, and of what lies between the
layers (attention, norms, activations) all that comes after its first one, where gradients pass.

    forecast = Forecast.of(
        model_config, layers, "lora", settings, batch_size=32, micro_batch=8, length=1024
    )
    forecast.memory(["lm_head"])            # bytes
    forecast.parts(["lm_head"])             # the same, by what they are for
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ila_core.config import FullMethod, MethodSettings, ModelConfig
from ila_core.errors import UserError
from ila_core.models.architecture import architecture_config
from ila_core.models.experts import all_expert_tensors
from ila_core.models.layers import Layer
from ila_core.models.loading import untie
from ila_core.train.methods import METHODS

VERSION = 2
"""Raised when the same selection would get another forecast: in the keys of what it decides."""

_NF4 = 0.5 + (1 + 4 / 256) / 64
"""Bytes a weight: 4 bits, a byte for 64 of them, and a float for 256 of these bytes."""
_BETWEEN = ""


class SavedTensor(NamedTuple):
    """One tensor that autograd saves in the forward pass for the backward pass."""

    layer: str
    """The layer whose training saves it; empty where it lies between layers."""
    after: int
    """Layers that had been computed before it."""
    n_bytes: int
    storage: int
    """Tensors of one storage are saved once."""


@dataclass(frozen=True)
class Forecast:
    layers: tuple[Layer, ...]
    method: MethodSettings
    weights: int
    """Bytes of the base model."""
    extra_parameters: int
    """What trains whatever the selection (embeddings and norms of full fine-tuning)."""
    saved: tuple[SavedTensor, ...]
    fixed: int
    """Bytes of a step that no selection changes: hidden states, logits, temporaries."""
    narrow: bool
    """Whether weights of 16 bits train: in 32, with a copy of 16 for each pass."""
    accumulates: bool = False
    """Whether a step has several passes: gradients of the first are there during the next."""
    tokens: int = 0
    """Tokens of the whole training with padding; 0 where they are unknown."""
    flops_per_second: float | None = None
    """The speed of a training that was measured."""

    @staticmethod
    def of(
        config: ModelConfig,
        layers: Sequence[Layer],
        method: str,
        settings: MethodSettings,
        *,
        batch_size: int,
        micro_batch: int,
        length: int,
    ) -> Forecast:
        """Count a pass of as many conversations of `length` tokens; seconds are unknown yet.

        Raises:
            UserError: the model has tensors of experts.
        """
        rows = min(batch_size, micro_batch)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PEFT, about a model that is never trained
            found = _counted(config, layers, method, settings, rows, length)
        return replace(found, accumulates=batch_size > rows)

    def timed(self, tokens: int, flops_per_second: float) -> Forecast:
        """Return the same forecast for a training of so many tokens at a measured speed."""
        return replace(self, tokens=tokens, flops_per_second=flops_per_second)

    def parts(self, names: Sequence[str]) -> dict[str, int]:
        """Return the bytes at the peak of a step when `names` train, by what they are for."""
        chosen = set(names)
        trained = self.extra_parameters + sum(
            self.method.parameters(layer.shape) for layer in self.layers if layer.name in chosen
        )
        order = {layer.name: i for i, layer in enumerate(self.layers)}
        # Embeddings train before every layer: gradients pass through all of the model then.
        first = -1 if self.extra_parameters else min((order[n] for n in chosen), default=len(order))
        held = {
            x.storage: x.n_bytes
            for x in self.saved
            if (x.layer in chosen if x.layer else x.after > first)
        }
        saved = sum(held.values())
        gradients = 4 * trained
        if not self.accumulates:  # they come while what is saved goes
            gradients = max(0, gradients - saved - self.fixed)
        own = isinstance(self.method, FullMethod)
        widened = 2 * trained if self.narrow else 0
        saved += widened
        return {
            "weights": self.weights + widened,
            "adapters": 0 if own else 4 * trained,
            "gradients": gradients,
            "optimizer": 4 * self.method.states * trained,
            "saved for backward": saved,
            "the step itself": self.fixed,
        }

    def memory(self, names: Sequence[str]) -> int:
        """Return the bytes at the peak of a step when `names` train."""
        return sum(self.parts(names).values())

    def flops(self, names: Sequence[str]) -> int:
        """Count FLOPs per token of the linear layers; attention's own are left out."""
        order = {layer.name: i for i, layer in enumerate(self.layers)}
        first = min((order[n] for n in names), default=len(order))
        if self.extra_parameters:
            first = 0
        chosen = set(names)
        total = 0
        for i, layer in enumerate(self.layers):
            passes = 2 if i > first else 1  # forward, and the input's gradient
            total += 2 * layer.weights * passes
            if layer.name in chosen:
                own = self.method.parameters(layer.shape)
                total += 2 * own * (1 if isinstance(self.method, FullMethod) else 3)
        return total

    def seconds(self, names: Sequence[str]) -> float:
        """Return the seconds of the training when `names` train, at the speed given to `timed`."""
        assert self.flops_per_second is not None
        return self.tokens * self.flops(names) / self.flops_per_second


def refuse_forecast(has_experts: bool, model: str) -> None:
    """Refuse models of experts: which token goes to which expert is no question of shapes.

    Raises:
        UserError: the model has tensors of experts.
    """
    if has_experts:
        raise UserError(
            f"model {model} has experts, and how much memory and time a training takes is forecast "
            "for models without; give a limit in layers or parameters (keep, layers, parameters)"
        )


def _counted(
    config: ModelConfig,
    layers: Sequence[Layer],
    method: str,
    settings: MethodSettings,
    rows: int,
    length: int,
) -> Forecast:
    import torch
    from torch.autograd.graph import saved_tensors_hooks
    from transformers import AutoModelForCausalLM

    from ila_core.train.lora_function import fused_lora
    from ila_core.train.loss import positions_per_chunk
    from ila_core.train.recompute import recomputing_activations

    dtype = getattr(torch, config.dtype)
    names = [layer.name for layer in layers]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            architecture_config(config), dtype=dtype, attn_implementation=_attention()
        )
        refuse_forecast(bool(all_expert_tensors(model)), config.name)
        if config.lm_head == "untie":
            untie(model)
        weights = _weight_bytes(model, METHODS[method].four_bit, dtype)
        ready = METHODS[method].prepare(model, names, settings, seed=0, steps=1_000_000)
        causal = getattr(ready.model, "get_base_model", lambda: ready.model)()
        saved: list[SavedTensor] = []
        alive: list[Any] = []  # a storage's address may be used again once it is gone
        at, entered = [_BETWEEN], [0]

        def enter(name: str) -> Any:
            def hook(*_: Any) -> None:
                at.append(name)
                entered[0] += 1

            return hook

        def leave(*_: Any) -> None:
            at.pop()

        wanted = set(names)
        for name, module in causal.named_modules():
            if name in wanted:
                module.register_forward_pre_hook(enter(name))
                module.register_forward_hook(leave)

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in parameters:
                alive.append(tensor)
                saved.append(SavedTensor(at[-1], entered[0], storage.nbytes(), storage._cdata))
            return tensor

        for parameter in causal.parameters():
            if ready.autocast is not None and parameter.requires_grad:
                parameter.data = parameter.data.to(ready.autocast)  # what a pass computes in
        parameters = {p.untyped_storage()._cdata for p in ready.model.parameters()}
        ready.model.train()
        ids = torch.zeros(rows, length, dtype=torch.long)
        mask = torch.ones(rows, 1, length, length, dtype=torch.bool)
        with (
            fused_lora(ready.model),
            recomputing_activations(ready.model),
            saved_tensors_hooks(pack, lambda packed: packed),
        ):
            hidden = causal.base_model(input_ids=ids, attention_mask=mask, use_cache=False)[0]
        extra = sum(
            p.numel()
            for n, p in causal.named_parameters()
            if p.requires_grad and n in set(ready.also_trains)
        )
    vocabulary = causal.get_output_embeddings().out_features
    logits = min(rows * length, positions_per_chunk(vocabulary)) * vocabulary
    widest = max(max(layer.shape) for layer in layers if layer.block is not None)
    # Beside hidden states and their gradient: logits and their gradient in float, or what the
    # backward pass of the widest block holds at a time.
    passing = max(8 * logits, 4 * rows * length * widest * dtype.itemsize)
    fixed = 3 * hidden.numel() * hidden.element_size() + passing
    return Forecast(
        layers=tuple(layers),
        method=settings,
        weights=weights,
        extra_parameters=extra,
        saved=tuple(saved),
        fixed=fixed,
        narrow=ready.autocast is not None,
    )


def _weight_bytes(model: Any, four_bit: bool, dtype: Any) -> int:
    from torch import nn

    head = model.get_output_embeddings()
    packed = {
        id(x.weight): x.weight.numel()
        for x in model.modules()
        if four_bit and isinstance(x, nn.Linear) and x is not head
    }
    plain = sum(p.numel() for p in model.parameters() if id(p) not in packed)
    return int(plain * dtype.itemsize) + round(_NF4 * sum(packed.values()))


def _attention() -> str:
    """Register an attention that saves the tensors that flash kernels save; return its name.

    On the meta device SDPA would save the whole attention matrix, which no kernel does.
    """
    import torch
    from transformers import AttentionInterface

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, q: Any, k: Any, v: Any, mask: Any) -> Any:
            rows, heads, length, width = q.shape
            out = q.new_empty(rows, length, heads, width)
            ctx.save_for_backward(q, k, v, out, q.new_empty(rows, heads, length), mask.to(q.dtype))
            return out

    def attend(_: Any, q: Any, k: Any, v: Any, mask: Any, **__: Any) -> tuple[Any, None]:
        groups = q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (k, v))
        return Attention.apply(q, k, v, mask), None  # type: ignore[no-untyped-call]

    AttentionInterface.register("ila_forecast", attend)
    return "ila_forecast"
