"""The arithmetic of a stage-2 step: what trains is one number per layer, so little is kept for it.

`gated` is a LoRA layer with its gate as one autograd node; `recompute_activations` keeps the input
of an elementwise activation and not its output too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers.activations import GELUActivation, GELUTanh, SiLUActivation

# Those whose own backward keeps their input, which then serves both.
_ACTIVATIONS = (nn.SiLU, nn.GELU, SiLUActivation, GELUActivation, GELUTanh)


def gated(layer: Any, score: Tensor, x: Tensor) -> Tensor:
    """`base(x) + sigmoid(score) * beta * B A x`, differentiable in `x` and `score` only.

    Args:
        layer: a LoRA layer of PEFT with the adapter `default`; its weights are frozen.
        score: (1,).
        x: (..., d_in).

    Returns:
        (..., d_out), in the dtype of the base layer's output.
    """
    base = layer.base_layer
    gate = torch.sigmoid(score) * layer.scaling["default"]
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    # A quantised base layer knows how to multiply by itself; only the branch is fused then.
    weight, start = (base.weight, base.bias) if type(base) is nn.Linear else (None, base(x))
    return cast(Tensor, _Gated.apply(x, start, gate, weight, a, b))  # type: ignore[no-untyped-call]


class _Gated(torch.autograd.Function):
    """u = A x stays in the rank space: (tokens, r) is all that is kept, and x is not.

    addmm adds the branch to the base's output and to its input gradient while it multiplies, where
    PEFT's modules make a scaled copy and a sum of full width, each way.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        start: Tensor | None,
        gate: Tensor,
        weight: Tensor | None,
        a: Tensor,
        b: Tensor,
    ) -> Tensor:
        """`start`: the bias where `weight` is given, else the base layer's output."""
        flat = x.flatten(0, -2)
        # PEFT keeps an adapter in float32 on a bfloat16 base, with float32 matrix products; the
        # frozen one is rounded to the base's precision instead, like all that surrounds it.
        u = flat @ a.T.to(x.dtype)
        branch, b_t = (u * gate).to(x.dtype), b.T.to(x.dtype)
        if weight is None:
            assert start is not None
            out = torch.addmm(start.flatten(0, -2), branch, b_t)
        else:
            out = nn.functional.linear(flat, weight, start).addmm_(branch, b_t)
        ctx.save_for_backward(u, gate, weight, a, b)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        u, gate, weight, a, b = ctx.saved_tensors
        needs_x, needs_start, needs_gate, *_ = ctx.needs_input_grad
        (g,) = gradients
        flat = g.flatten(0, -2)
        g_u = flat @ b.to(g.dtype)
        g_gate = g_x = None
        if needs_gate:
            g_gate = torch.linalg.vecdot(g_u.to(gate.dtype), u.to(gate.dtype)).sum()[None]
        if needs_x:
            branch, a = (g_u * gate).to(g.dtype), a.to(g.dtype)
            g_x = branch @ a if weight is None else (flat @ weight).addmm_(branch, a)
            g_x = g_x.view(*g.shape[:-1], -1)
        return g_x, g if needs_start else None, g_gate, None, None, None


@contextmanager
def recompute_activations(model: nn.Module) -> Iterator[None]:
    """Outputs of elementwise activations that a forward within the block would keep for backward
    are made again from their inputs, which are kept anyway.

    SwiGLU then keeps two tensors of the intermediate width, not three. Under gradient
    checkpointing, which has saved-tensor hooks of its own, it changes nothing.
    """
    latest: tuple[ReferenceType[Tensor], int, nn.Module, Tensor] | None = None

    def remember(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal latest
        latest = ref(output), output._version, module, inputs[0].detach()

    def pack(tensor: Tensor) -> Tensor | tuple[nn.Module, Tensor]:
        if latest is None:
            return tensor
        output, version, module, given = latest
        alive = output()  # what is saved is an alias of it; a dead one's memory may be another's
        if alive is None or alive.data_ptr() != tensor.data_ptr() or alive.shape != tensor.shape:
            return tensor
        if alive._version != version:  # changed in place since
            return tensor
        return module, given

    def unpack(packed: Tensor | tuple[nn.Module, Tensor]) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        module, given = packed
        with torch.no_grad():
            return cast(Tensor, type(module).forward(module, given))

    handles = [
        module.register_forward_hook(remember)
        for module in model.modules()
        if type(module) in _ACTIVATIONS and not getattr(module, "inplace", False)
    ]
    try:
        with saved_tensors_hooks(pack, unpack):
            yield
    finally:
        for handle in handles:
            handle.remove()
