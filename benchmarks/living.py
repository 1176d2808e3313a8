"""Where the bytes of a training step are: every living storage by what made it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Watch(TorchDispatchMode):
    """What made the storages that are alive at the operation after which most is.

    Args:
        step: the training step that is looked into; in the one before the operation is found.
        rank: last dimension of A x.
    """

    def __init__(self, step: int, rank: int) -> None:
        super().__init__()
        self._looked_into, self._rank = step, rank
        self.mib: dict[str, float] = {}
        """By module and operation, the most first; *kept* is what autograd saved."""
        self._made: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
        self._kept: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
        self._modules: list[str] = []
        self._names: dict[nn.Module, str] = {}
        self._trained: list[nn.Parameter] = []
        self._step = self._operation = self._most = self._most_at = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        hooks = nn.modules.module
        entered = hooks.register_module_forward_pre_hook(
            lambda module, _: self._modules.append(self._names.get(module, "check"))
        )
        left = hooks.register_module_forward_hook(lambda *_: (self._modules.pop(), None)[1])
        with self, torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor):
            yield
        entered.remove()
        left.remove()

    def look(self, model: nn.Module, optimizer: Any, step: int) -> None:
        """To be called before every step."""
        self._step, self._operation = step, 0
        self._trained = [p for p in model.parameters() if p.requires_grad]
        for name, module in model.named_modules():
            leaf = name.removesuffix(".base_layer").rpartition(".")[2]
            self._names[module] = "block" if leaf.isdigit() else leaf
        for tensor in _weights(model):
            kind = "adapter weights" if tensor.requires_grad else "base weights"
            self._made[tensor.untyped_storage()] = kind
        state = getattr(optimizer, "optimizer", optimizer).state
        for tensor in filter(torch.is_tensor, tree_leaves([dict(x) for x in state.values()])):
            self._made[tensor.untyped_storage()] = "optimizer"

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        made = self._made.get(storage, "given")
        if tensor.dtype in (torch.bool, torch.uint8):
            made = "dropout masks"
        elif tensor.shape[-1:] == (self._rank,):
            made = "A x"
        self._kept.setdefault(storage, f"kept: {made}")
        return tensor

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        where = self._modules[-1] if self._modules else "backward and loss"
        for tensor in filter(torch.is_tensor, tree_leaves(result)):
            self._made.setdefault(
                tensor.untyped_storage(), f"{where}, {function.overloadpacket.__name__}"
            )
        self._operation += 1
        if self._step == self._looked_into - 1:
            alive = sum(storage.nbytes() for storage in list(self._made))
            if alive > self._most:
                self._most, self._most_at = alive, self._operation
        elif self._step == self._looked_into and self._operation == self._most_at:
            self._count()
        return result

    def _count(self) -> None:
        gradients = {p.grad.untyped_storage() for p in self._trained if p.grad is not None}
        own = ("base weights", "adapter weights", "optimizer")
        found: Counter[str] = Counter()
        for storage, made in list(self._made.items()):
            kind = self._kept.get(storage, f"passing: {made}")
            kind = made if made in own else "gradients" if storage in gradients else kind
            found[kind] += storage.nbytes()
        self.mib = {kind: size / 2**20 for kind, size in found.most_common()}


def _weights(model: nn.Module) -> Iterator[Tensor]:
    yield from model.buffers()
    for parameter in model.parameters():
        yield parameter
        state = getattr(parameter, "quant_state", None)
        for part in (state, getattr(state, "state2", None)):
            yield from filter(torch.is_tensor, vars(part).values() if part is not None else ())
