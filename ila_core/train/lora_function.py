"""A LoRA layer as one `torch.autograd.Function`, with a gate (stage 2) or without.

`fused_lora` replaces the forward of LoRA layers whose A and B train (stage 1 and fine-tuning, with
AdaLoRA's singular values). `gated` is the forward of stage 2, where one number per layer trains.

On one H100 at 7B shape a step of stage 1, with `recompute`, takes 0.79 of the time and 0.53 of the
memory of PEFT's own modules (benchmarks/results/gpu_h100.json).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from peft.tuners.adalora import SVDLinear
from torch import Tensor, nn

from ila_core.models.experts import adapts_experts
from ila_core.train.methods.lora import lora_layers
from ila_core.train.recompute import (
    packed_bits,
    replaced_forward,
    save_for_backward,
    saved_tensors,
    unpacked_bits,
)


@contextmanager
def fused_lora(model: Any) -> Iterator[None]:
    """Let the LoRA and AdaLoRA layers of `model` compute by `adapted` within the block.

    Other layers (gated, experts, DoRA, several active adapters) keep their own forward.
    """
    layers = lora_layers(model).values() if hasattr(model, "get_base_model") else ()
    chosen = (x for x in layers if is_plain(x) or _has_values(x))
    with replaced_forward((x, partial(adapted, x)) for x in chosen):
        yield


def is_plain(layer: Any) -> bool:
    """Whether a LoRA layer computes `base(x) + beta * B A dropout(x)` and nothing else."""
    if not _is_alone(layer):
        return False
    both = layer.lora_A["default"], layer.lora_B["default"]
    return all(isinstance(x, nn.Linear) and x.bias is None for x in both)


def _has_values(layer: Any) -> bool:
    """Whether a layer computes AdaLoRA's `base(x) + beta * B (E . A) dropout(x)`, E (r, 1)."""
    return isinstance(layer, SVDLinear) and _is_alone(layer)


def _is_alone(layer: Any) -> bool:
    if "forward" in vars(layer) or layer.lora_variant or layer.merged or adapts_experts(layer):
        return False
    return layer.active_adapters == ["default"] and "default" in layer.lora_A


def adapted(layer: Any, x: Tensor) -> Tensor:
    """Compute `base(x) + beta * B A dropout(x)` (Eq. 4), differentiable in x, A, B (AdaLoRA: E).

    Args:
        layer: a LoRA or AdaLoRA layer of PEFT with the adapter `default`.
        x: (..., d_in).

    Returns:
        (..., d_out), in the dtype of the base layer's output.
    """
    if layer.disable_adapters:  # `with model.disable_adapter()`
        return cast(Tensor, layer.base_layer(x))
    a, b = layer.lora_A["default"], layer.lora_B["default"]
    beta = torch.full((1,), layer.scaling["default"], device=x.device)
    if isinstance(a, nn.Linear):
        a, b = a.weight, b.weight
    else:
        a, beta = a * layer.lora_E["default"], beta / (layer.ranknum["default"] + 1e-5)  # as PEFT
    dropout = layer.lora_dropout["default"]
    rate = dropout.p if layer.training and hasattr(dropout, "p") else 0.0
    return _lora(layer, beta, a, b, x, rate)


def gated(layer: Any, score: Tensor, x: Tensor) -> Tensor:
    """Compute `base(x) + sigmoid(score) * beta * B A x` (Eq. 5), differentiable in x and score.

    Args:
        layer: as for `adapted`; its weights are frozen.
        score: (1,).
        x: (..., d_in).

    Returns:
        (..., d_out), in the dtype of the base layer's output.
    """
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return _lora(layer, torch.sigmoid(score) * layer.scaling["default"], a, b, x, 0.0)


@contextmanager
def gated_experts(gates: Mapping[Any, Tensor]) -> Iterator[None]:
    """Let PEFT add `sigmoid(score) * beta * B A` to tensors of experts within the block (Eq. 5).

    The gate multiplies one of the two low-rank factors, not the update, which is as large as the
    experts themselves.

    Args:
        gates: the score (1,) of each wrapper of PEFT, whose forward makes tensor + beta * B A.
    """
    for layer, score in gates.items():
        layer.get_delta_factors = partial(_gated_factors, layer, score)
    try:
        yield
    finally:
        for layer in gates:
            del layer.get_delta_factors


def _gated_factors(layer: Any, score: Tensor, adapter: str) -> tuple[Tensor, Tensor, float]:
    left, right, beta = type(layer).get_delta_factors(layer, adapter)
    return left, (torch.sigmoid(score) * right).to(right.dtype), beta


def _lora(layer: Any, scale: Tensor, a: Tensor, b: Tensor, x: Tensor, dropout: float) -> Tensor:
    base = layer.base_layer
    # A quantised base layer knows how to multiply by itself; only the branch is fused then.
    weight, start = (base.weight, base.bias) if type(base) is nn.Linear else (None, base(x))
    return cast(Tensor, _Lora.apply(x, start, scale, weight, a, b, dropout))  # type: ignore[no-untyped-call]


class _Lora(torch.autograd.Function):
    """y = W x + scale * B A dropout(x), with its gradients by hand.

    Shapes: x (..., d_in), flattened to (tokens, d_in); W (d_out, d_in); A (r, d_in); B (d_out, r);
    u = x A^T (tokens, r); y and its gradient g (tokens, d_out); scale (1,).

        g_x = g W + scale (g B) A        (tokens, d_in)
        g_A = (scale g B)^T x            (r, d_in)
        g_B = g^T (scale u)              (d_out, r)
        g_scale = sum of (g B) * u       (1,)

    Saved for the backward pass: u, and x only where A or W trains; layers that share their input
    save it once. `addmm` adds the low-rank branch while it multiplies, where PEFT's modules make a
    scaled copy and a sum of full width in each direction.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        start: Tensor | None,
        scale: Tensor,
        weight: Tensor | None,
        a: Tensor,
        b: Tensor,
        dropout: float,
    ) -> Tensor:
        """Return y (..., d_out).

        Args:
            ctx: autograd's.
            x: (..., d_in).
            start: the bias (d_out,) or None where `weight` is given, else W x (..., d_out).
            scale: (1,).
            weight: W, or None where the base layer multiplies by itself (4-bit).
            a: (r, d_in).
            b: (d_out, r).
            dropout: probability; the mask is saved at one bit an element.
        """
        flat = inner = x.reshape(-1, x.shape[-1])
        mask = None
        if dropout:
            inner, mask = torch.native_dropout(flat, dropout, True)
        # PEFT keeps an adapter in float32 on a bfloat16 base, with float32 matrix products; here
        # they are in the base's precision, like all that surrounds them.
        u = inner @ a.T.to(x.dtype)
        branch = u * scale
        if weight is None:
            assert start is not None
            before = start.reshape(-1, start.shape[-1])
            out = torch.addmm(before, branch.to(before.dtype), b.T.to(before.dtype))
        else:
            out = nn.functional.linear(flat, weight, start)
            out.addmm_(branch.to(out.dtype), b.T.to(out.dtype))
        _, _, _, needs_weight, needs_a, *_ = ctx.needs_input_grad
        given = x if needs_weight or needs_a else None
        mask = None if mask is None else packed_bits(mask)
        save_for_backward(ctx, u, scale, weight, a, b, given, mask)
        ctx.rescale = 1 / (1 - dropout)
        # As no view: Falcon adds to its attention's output in place, which autograd forbids of one.
        return cast(Tensor, torch.ops.aten._unsafe_view(out, [*x.shape[:-1], b.shape[0]]))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        u, scale, weight, a, b, x, mask = saved_tensors(ctx)
        mask = None if mask is None else unpacked_bits(mask)
        needs_x, needs_start, needs_scale, needs_weight, needs_a, needs_b, _ = ctx.needs_input_grad
        (g,) = gradients
        flat = g.reshape(-1, g.shape[-1])
        g_u = flat @ b.to(g.dtype)
        g_start = g_scale = g_weight = g_x = g_a = g_b = None
        if needs_start:
            g_start = g if weight is None else flat.sum(0)
        if needs_scale:
            g_scale = torch.linalg.vecdot(g_u.to(scale.dtype), u.to(scale.dtype)).sum()[None]
        g_u = (g_u * scale).to(g.dtype)
        if needs_weight:
            g_weight = flat.T @ x.reshape(-1, x.shape[-1])
        if needs_a:
            inner = x.reshape(-1, x.shape[-1])
            inner = inner if mask is None else (inner * mask).mul_(ctx.rescale)
            g_a = (g_u.T @ inner.to(g.dtype)).to(a.dtype)
            del inner
        if needs_b:
            g_b = (flat.T @ (u * scale).to(g.dtype)).to(b.dtype)
        if needs_x:
            g_x = _input_gradient(flat, weight, g_u, a.to(g.dtype), mask, ctx.rescale)
            g_x = g_x.view(*g.shape[:-1], a.shape[1])
        return g_x, g_start, g_scale, g_weight, g_a, g_b, None


def _input_gradient(
    g: Tensor, weight: Tensor | None, g_u: Tensor, a: Tensor, mask: Tensor | None, rescale: float
) -> Tensor:
    if mask is not None:
        branch = (g_u @ a).mul_(mask).mul_(rescale)
        return branch if weight is None else torch.addmm(branch, g, weight)
    return g_u @ a if weight is None else (g @ weight).addmm_(g_u, a)
