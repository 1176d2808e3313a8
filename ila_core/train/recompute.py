"""Selective activation recomputation: what a few elementwise operations give is not saved.

    with recomputing_activations(model):
        loss = ...  # a norm saves its input, SwiGLU the outputs of gate_proj and up_proj

The autograd node of `recomputed` saves its inputs only. Another node that would save its output
(`save_for_backward`: a LoRA layer whose A trains) saves a reference to the node instead, and the
backward pass computes the output once more, for all of them. Values equal those of the modules' own
arithmetic to the bit. Gradients do too, except that the path through a norm and the residual path
may be added in another order.
"""

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache, lru_cache, partial
from types import SimpleNamespace
from typing import Any, NamedTuple, cast
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge, saved_tensors_hooks
from transformers.activations import GELUActivation, GELUTanh, SiLUActivation

from ila_core.errors import first_line
from ila_core.models.experts import adapts_experts

log = logging.getLogger("ila")

_FOREIGN = (TypeError, ValueError, RuntimeError, LookupError)
"""What a forward that is no gated unit's raises when it is tried as one."""
# Activations whose own backward saves their input: the input then serves both.
_ACTIVATIONS = (nn.SiLU, nn.GELU, SiLUActivation, GELUActivation, GELUTanh)


@contextmanager
def recomputing_activations(model: nn.Module) -> Iterator[None]:
    """Recompute norms without trained parameters, gated MLPs, activations and folded experts.

    Below the lowest layer that trains nothing requires a gradient, and nothing is saved at all.
    """
    own = [m for m in model.modules() if "forward" not in vars(m)]
    norms = [(m, partial(_norm, m)) for m in own if _is_norm(m)]
    units = [(m, partial(_gated_unit, m)) for m in own if _is_gated_unit(m)]
    within = {m.act_fn for m in model.modules() if _is_gated_unit(m)}
    others = [m for m in own if type(m) in _ACTIVATIONS and m not in within]
    folds: dict[int, _Fold] = {}
    experts = [(m, partial(_folding, m, folds)) for m in own if adapts_experts(m)]
    with replaced_forward((*norms, *units, *experts)), _recomputed(others, folds, bool(experts)):
        yield


@contextmanager
def replaced_forward(
    forwards: Iterable[tuple[nn.Module, Callable[[Tensor], Tensor]]],
) -> Iterator[None]:
    """Replace the forward of each module by the function beside it; such blocks may be nested."""
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


def recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Compute `function(*inputs)` and save the inputs alone for the backward pass.

    Args:
        function: cheap, deterministic, and differentiable in nothing but `inputs`.
        inputs: its arguments.
    """
    if not (torch.is_grad_enabled() and any(x.requires_grad for x in inputs)):
        return function(*inputs)
    return cast(Tensor, _Recomputed.apply(function, *inputs))  # type: ignore[no-untyped-call]


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        ctx.function, ctx.made = function, None
        device = inputs[0].device.type
        ctx.autocast = nullcontext
        if torch.amp.is_autocast_available(device):  # not on the meta device
            now = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
            ctx.autocast = partial(torch.autocast, device, *now, cache_enabled=False)
        save_for_backward(ctx, *inputs)
        return function(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs, output = _make(ctx)
        edge = get_gradient_edge(output)
        del output  # only its graph is needed from here on
        ctx.made = None
        needed = [x for x in inputs if x.requires_grad]
        found = iter(torch.autograd.grad([edge], needed, gradients))
        return None, *(next(found) if x.requires_grad else None for x in inputs)


def _make(node: Any) -> tuple[list[Tensor], Tensor]:
    """Recompute a node's output. Returns its inputs, and the output with the graph between them.

    A second call before the node's backward returns the same tensors.
    """
    if node.made is None:
        pairs = zip(saved_tensors(node), node.needs_input_grad[1:], strict=True)
        inputs = [x.detach().requires_grad_(needed) for x, needed in pairs]
        with torch.enable_grad(), node.autocast():
            node.made = inputs, node.function(*inputs)
    return cast(tuple[list[Tensor], Tensor], node.made)


def save_for_backward(ctx: Any, *tensors: Tensor | None) -> None:
    """Call `ctx.save_for_backward`, but save the node instead of a tensor that `recomputed` made.

    The graph holds that node anyway. What a node saves goes through autograd's own
    `save_for_backward`, so that gradient checkpointing sees it.
    """
    made = _Recomputed._backward_cls
    ctx.makers = [
        x.grad_fn if x is not None and isinstance(x.grad_fn, made) else None for x in tensors
    ]
    pairs = zip(tensors, ctx.makers, strict=True)
    ctx.save_for_backward(*(x if maker is None else None for x, maker in pairs))


def saved_tensors(ctx: Any) -> list[Any]:
    """Return the tensors given to `save_for_backward`; recompute those that were not saved."""
    pairs = zip(ctx.saved_tensors, ctx.makers, strict=True)
    return [x if maker is None else _make(maker)[1].detach() for x, maker in pairs]


def _is_norm(module: nn.Module) -> bool:
    named = type(module).__name__.endswith(("RMSNorm", "LayerNorm"))
    return named and len(inspect.signature(type(module).forward).parameters) == 2


def _norm(module: nn.Module, x: Tensor) -> Tensor:
    forward = partial(type(module).forward, module)
    trains = any(p.requires_grad for p in module.parameters())
    return cast(Tensor, forward(x)) if trains else recomputed(forward, x)


def _is_gated_unit(module: nn.Module) -> bool:
    act = getattr(module, "act_fn", None)
    known = type(act) in _ACTIVATIONS and not getattr(act, "inplace", False)
    return known and _computes_gated(type(module))  # type: ignore[arg-type]  # classes hash


@cache
def _computes_gated(kind: type[nn.Module]) -> bool:
    """Whether `kind` computes down(act(gate(x)) * up(x)): tried with functions for its layers."""
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
    except _FOREIGN as error:  # it is called otherwise, or does more: its own forward then runs
        log.info(
            "%s keeps its own forward: what it computes between its layers is saved, as it is no "
            "gated unit (%s)",
            *(kind.__name__, first_line(error)),
        )
        return False
    expected = torch.tanh(2 * x + 1) * (x - 3) / 7
    return isinstance(found, Tensor) and torch.equal(found, expected)


def _gated_unit(mlp: Any, x: Tensor) -> Tensor:
    act = partial(type(mlp.act_fn).forward, mlp.act_fn)

    def product(gate: Tensor, up: Tensor) -> Tensor:
        return cast(Tensor, act(gate) * up)

    return cast(Tensor, mlp.down_proj(recomputed(product, mlp.gate_proj(x), mlp.up_proj(x))))


def packed_bits(mask: Tensor) -> Tensor:
    """Pack a boolean mask (..., n) into bytes (..., n / 8); unchanged if 8 does not divide n."""
    if mask.shape[-1] % 8:
        return mask
    # Eight bytes of 0 or 1 as one number; the product gathers them in its highest byte.
    return (mask.view(torch.int64) * 0x0102040810204080 >> 56).to(torch.uint8)


def unpacked_bits(mask: Tensor) -> Tensor:
    """Undo `packed_bits`: a boolean mask (..., n)."""
    if mask.dtype == torch.bool:
        return mask
    # 0.6 ms a million numbers on a CPU by this table, 1.8 by shifting (and 13 to draw them again).
    return _byte_table(mask.device)[mask.int()].view(torch.bool)


@lru_cache
def _byte_table(device: torch.device) -> Tensor:
    """For each of the 256 bytes, its eight bits as eight bytes of 0 or 1 in one int64: (256,)."""
    numbers, bits = torch.arange(256, device=device), torch.arange(8, device=device)
    return (numbers[:, None] >> bits & 1).bool().view(torch.int64).flatten()


class _Fold(NamedTuple):
    """A tensor of experts with its update, `weight + beta left right`: (experts, ., .) each."""

    weight: Tensor
    left: Tensor
    right: Tensor
    beta: float

    def again(self, size: torch.Size, stride: tuple[int, ...]) -> Tensor:
        """Fold as PEFT does, into a tensor that lies like the one that would have been saved."""
        weight, left, right, beta = self
        with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
            return torch.baddbmm(weight, left, right, alpha=beta).as_strided(size, stride)


def _folding(wrapper: Any, folds: dict[int, _Fold], *inputs: Any, **named: Any) -> Any:
    """Compute as PEFT's wrapper around a tensor of experts, known by its address meanwhile."""
    if wrapper.disable_adapters or wrapper.merged or wrapper.active_adapters != ["default"]:
        return type(wrapper).forward(wrapper, *inputs, **named)
    with wrapper._activate_lora(wrapper.active_adapters):
        module, name = wrapper.get_base_layer(), wrapper.parameter_name
        address = getattr(module, name).untyped_storage().data_ptr()  # made once in this block
        left, right, beta = wrapper.get_delta_factors("default")
        weight = module.parametrizations[name].original
        folds[address] = _Fold(weight.detach(), left.detach(), right.detach(), beta)
        try:
            return wrapper.base_layer(*inputs, **named)
        finally:
            del folds[address]


@contextmanager
def _recomputed(
    activations: list[nn.Module], folds: Mapping[int, _Fold], experts: bool
) -> Iterator[None]:
    """Recompute the outputs of `activations` that any node would save, in place of saving them.

    And so the folded experts: autograd would hold the weights of all experts once more.

    This costs hooks on every saved tensor. Under gradient checkpointing, which has such hooks of
    its own, it changes nothing.
    """
    activations = [module for module in activations if not getattr(module, "inplace", False)]
    if not activations and not experts:
        yield
        return
    latest: tuple[ReferenceType[Tensor], int, nn.Module, Tensor] | None = None

    def remember(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal latest
        latest = ref(output), output._version, module, inputs[0].detach()

    def pack(tensor: Tensor) -> Tensor | tuple[Any, ...]:
        fold = folds.get(tensor.untyped_storage().data_ptr()) if folds else None
        if fold is not None and tensor.numel() == fold.weight.numel():
            return fold, tensor.size(), tensor.stride()
        if latest is None:
            return tensor
        output, version, module, given = latest
        alive = output()  # what is saved is an alias of it; a dead one's memory may be another's
        if alive is None or alive.data_ptr() != tensor.data_ptr() or alive.shape != tensor.shape:
            return tensor
        if alive._version != version:  # changed in place since
            return tensor
        return module, given

    def unpack(packed: Tensor | tuple[Any, ...]) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        if isinstance(packed[0], _Fold):
            return packed[0].again(*packed[1:])
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
