"""What a forward pass keeps for its backward: nothing that a few elementwise operations make again.

    with keeping_less(model):
        loss = ...  # norms keep their input, SwiGLU the outputs of gate_proj and up_proj

A node of `made_again` keeps its inputs alone, and whatever else would keep its output (`keep`, of
a LoRA layer whose A trains) keeps the node instead: in the backward the output is made once more,
for all of them. Values are those of the modules' own arithmetic to the bit, and gradients too, but
for the order in which the paths through a norm and the one around it are added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import Any, cast
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge, saved_tensors_hooks
from transformers.activations import GELUActivation, GELUTanh, SiLUActivation

# Those whose own backward keeps their input, which then serves both.
_ACTIVATIONS = (nn.SiLU, nn.GELU, SiLUActivation, GELUActivation, GELUTanh)


@contextmanager
def keeping_less(model: nn.Module) -> Iterator[None]:
    """Norms without trained parameters, gated MLPs and activations of `model` keep less.

    Below the lowest layer that trains nothing requires a gradient, and nothing is kept at all.
    """
    own = [m for m in model.modules() if "forward" not in vars(m)]
    norms = [(m, partial(_norm, m)) for m in own if _is_norm(m)]
    units = [(m, partial(_gated_unit, m)) for m in own if _is_gated_unit(m)]
    within = {m.act_fn for m in model.modules() if _is_gated_unit(m)}
    others = [m for m in own if type(m) in _ACTIVATIONS and m not in within]
    with replaced_forward((*norms, *units)), _recomputed(others):
        yield


@contextmanager
def replaced_forward(
    forwards: Iterable[tuple[nn.Module, Callable[[Tensor], Tensor]]],
) -> Iterator[None]:
    """Each module computes by the function beside it; blocks may stand within one another."""
    before = []
    try:
        for module, forward in forwards:
            before.append((module, vars(module).get("forward")))
            module.forward = forward
        yield
    finally:
        for module, own in before:
            del module.forward
            if own is not None:
                module.forward = own


def made_again(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """`function(*inputs)`, of which the inputs are kept and nothing else.

    Args:
        function: cheap, always the same, and differentiable in nothing but `inputs`.
        inputs: what it is given.
    """
    if not (torch.is_grad_enabled() and any(x.requires_grad for x in inputs)):
        return function(*inputs)
    return cast(Tensor, _MadeAgain.apply(function, *inputs))  # type: ignore[no-untyped-call]


class _MadeAgain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        ctx.function, ctx.made = function, None
        device = inputs[0].device.type
        ctx.autocast = nullcontext
        if torch.amp.is_autocast_available(device):  # not on the meta device
            now = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
            ctx.autocast = partial(torch.autocast, device, *now, cache_enabled=False)
        keep(ctx, *inputs)
        return function(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs, output = _make(ctx)
        edge = get_gradient_edge(output)
        del output  # its numbers have served; only the graph is needed from here on
        ctx.made = None
        needed = [x for x in inputs if x.requires_grad]
        found = iter(torch.autograd.grad([edge], needed, gradients))
        return None, *(next(found) if x.requires_grad else None for x in inputs)


def _make(node: Any) -> tuple[list[Tensor], Tensor]:
    """Inputs and output, with the graph between them; the same until the node's backward."""
    if node.made is None:
        pairs = zip(kept(node), node.needs_input_grad[1:], strict=True)
        inputs = [x.detach().requires_grad_(needed) for x, needed in pairs]
        with torch.enable_grad(), node.autocast():
            node.made = inputs, node.function(*inputs)
    return cast(tuple[list[Tensor], Tensor], node.made)


def keep(ctx: Any, *tensors: Tensor | None) -> None:
    """`ctx.save_for_backward`, but of what `made_again` made only the node that made it.

    Nodes hang on each other in the graph anyway, and what each keeps is kept by
    `save_for_backward`, so that gradient checkpointing sees it.
    """
    made = _MadeAgain._backward_cls
    ctx.makers = [
        x.grad_fn if x is not None and isinstance(x.grad_fn, made) else None for x in tensors
    ]
    pairs = zip(tensors, ctx.makers, strict=True)
    ctx.save_for_backward(*(x if maker is None else None for x, maker in pairs))


def kept(ctx: Any) -> list[Any]:
    """What was given to `keep`."""
    pairs = zip(ctx.saved_tensors, ctx.makers, strict=True)
    return [x if maker is None else _make(maker)[1].detach() for x, maker in pairs]


def _is_norm(module: nn.Module) -> bool:
    return type(module).__name__.endswith(("RMSNorm", "LayerNorm"))


def _norm(module: nn.Module, x: Tensor) -> Tensor:
    forward = partial(type(module).forward, module)
    trains = any(p.requires_grad for p in module.parameters())
    return cast(Tensor, forward(x)) if trains else made_again(forward, x)


def _is_gated_unit(module: nn.Module) -> bool:
    act = getattr(module, "act_fn", None)
    known = type(act) in _ACTIVATIONS and not getattr(act, "inplace", False)
    return known and _computes_gated(type(module))


def _computes_gated(kind: type[nn.Module]) -> bool:
    """Whether `kind` computes down(act(gate(x)) * up(x)), seen with numbers in place of layers."""
    numbers = SimpleNamespace(
        gate_proj=lambda x: 2 * x + 1,
        up_proj=lambda x: x - 3,
        down_proj=lambda x: x / 7,
        act_fn=torch.tanh,
    )
    x = torch.arange(4.0, device="cpu")
    try:
        found = kind.forward(numbers, x)
    except AttributeError:  # it has other parts
        return False
    return torch.equal(found, torch.tanh(2 * x + 1) * (x - 3) / 7)


def _gated_unit(mlp: Any, x: Tensor) -> Tensor:
    act = partial(type(mlp.act_fn).forward, mlp.act_fn)

    def product(gate: Tensor, up: Tensor) -> Tensor:
        return cast(Tensor, act(gate) * up)

    return cast(Tensor, mlp.down_proj(made_again(product, mlp.gate_proj(x), mlp.up_proj(x))))


def packed_bits(mask: Tensor) -> Tensor:
    """A boolean mask, eight numbers of its last dimension in a byte if they are a multiple of 8."""
    if mask.shape[-1] % 8:
        return mask
    # Eight bytes of 0 or 1 as one number; the product gathers them in its highest byte.
    return (mask.view(torch.int64) * 0x0102040810204080 >> 56).to(torch.uint8)


def unpacked_bits(mask: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return mask
    # 0.6 ms a million numbers on a CPU by this table, 1.8 by shifting (and 13 to draw them again).
    return _byte_table(mask.device)[mask.int()].view(torch.bool)


@lru_cache
def _byte_table(device: torch.device) -> Tensor:
    """The eight bytes of 0 or 1 of every byte, as one number."""
    numbers, bits = torch.arange(256, device=device), torch.arange(8, device=device)
    return (numbers[:, None] >> bits & 1).bool().view(torch.int64).flatten()


@contextmanager
def _recomputed(activations: list[nn.Module]) -> Iterator[None]:
    """Their outputs that a forward within the block would keep for backward are made again.

    Whatever it is that keeps them, which costs hooks on all that is saved. Under gradient
    checkpointing, which has such hooks of its own, it changes nothing.
    """
    activations = [module for module in activations if not getattr(module, "inplace", False)]
    if not activations:
        yield
        return
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

    handles = [module.register_forward_hook(remember) for module in activations]
    try:
        with saved_tensors_hooks(pack, unpack):
            yield
    finally:
        for handle in handles:
            handle.remove()
