"""Whether a model keeps apart conversations that share a row, and the way round where it does not.

Attention does by `position_ids` that start anew. Linear attention, state spaces and convolutions
may carry a state from one conversation into the next.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ila_core.data.loss_mask import IGNORED
from ila_core.errors import first_line

ALLOWED = 1e-4
"""Hidden states may move by this much, relatively. Rounding in float32 moves them by some 1e-6."""


@torch.no_grad()
def leak(
    body: nn.Module, states: Callable[..., Tensor], ids: int, device: torch.device
) -> str | None:
    """Compare two short documents that share a row with each of them alone, in float32.

    Args:
        body: the module that `states` calls.
        states: hidden states (batch, length, d) of token ids.
        ids: the token ids are 0 to this.
        device: where the model is.

    Returns:
        Why rows must not be shared; `None` where they may be.
    """
    a, b = (torch.arange(n, device=device) * 7919 * n % ids for n in (7, 4))
    # Two rows: transformers' FlashAttention finds packed documents in a single row only.
    both = torch.stack([torch.cat([a, b]), torch.cat([b, a])])
    positions = torch.stack(
        [
            torch.cat([torch.arange(len(x), device=device) for x in pair])
            for pair in ((a, b), (b, a))
        ]
    )
    with _in_float32(body, device):
        try:
            alone_a, alone_b = (states(input_ids=x[None])[0] for x in (a, b))
            packed = states(input_ids=both, position_ids=positions)
        except (RuntimeError, TypeError) as error:
            return f"it cannot be tried: {first_line(error)}"
    pairs = [
        *((packed[0, :7], alone_a), (packed[0, 7:], alone_b)),
        *((packed[1, :4], alone_b), (packed[1, 4:], alone_a)),
    ]
    found = max(((p - q).norm() / q.norm()).item() for p, q in pairs)
    return None if found <= ALLOWED else f"hidden states move by {found:.1g}"


def alone(batch: dict[str, Tensor]) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Split packed rows into conversations, one a row, longest first.

    Yields:
        Batches of no more rows than the given one has, and of each row its row in that. What
        stands after a conversation's last target is left out: it decides nothing.
    """
    pieces = []
    for row, positions in enumerate(batch["position_ids"]):
        starts = [*(positions == 0).nonzero()[:, 0].tolist(), len(positions)]
        for start, end in pairwise(starts):
            targets = (batch["labels"][row, start:end] != IGNORED).nonzero()[:, 0]
            if len(targets):
                pieces.append((row, slice(start, start + int(targets[-1]) + 1)))
    pieces.sort(key=lambda piece: piece[1].start - piece[1].stop)
    most = len(batch["input_ids"])
    for first in range(0, len(pieces), most):
        some = pieces[first : first + most]
        part = {
            name: pad_sequence(
                [batch[name][row, where] for row, where in some],
                batch_first=True,
                padding_value=filler,
            )
            for name, filler in (("input_ids", 0), ("labels", IGNORED))
        }
        rows = torch.tensor([row for row, _ in some], device=batch["input_ids"].device)
        yield part, rows


@contextmanager
def _in_float32(body: nn.Module, device: torch.device) -> Iterator[None]:
    """Compute in float32 within: a block's weights are widened while it runs, and come back."""
    blocks = [m for x in body.modules() if isinstance(x, nn.ModuleList) for m in x]
    inner = {id(m) for block in blocks for m in block.modules() if m is not block}
    outer = [block for block in blocks if id(block) not in inner]
    inside = {id(p) for block in outer for p in block.parameters()}
    narrow: dict[nn.Parameter, Tensor] = {}

    def widen(parameters: Iterator[nn.Parameter]) -> None:
        for p in parameters:
            if p.is_floating_point() and p.dtype.itemsize < 4 and p not in narrow:
                narrow[p] = p.data
                p.data = p.data.float()

    def restore(parameters: Iterator[nn.Parameter]) -> None:
        for p in parameters:
            if p in narrow:
                p.data = narrow.pop(p)

    def before(module: nn.Module, _: Any) -> None:
        widen(module.parameters())

    def after(module: nn.Module, *_: Any) -> None:
        restore(module.parameters())

    packed = [
        m for m in body.modules() if isinstance(getattr(m, "compute_dtype", None), torch.dtype)
    ]
    computed: list[Any] = [m.compute_dtype for m in packed]
    handles: list[Any] = []
    try:
        for block in outer:
            handles += [block.register_forward_pre_hook(before), block.register_forward_hook(after)]
        for module in packed:  # bitsandbytes' layers: what they multiply in
            module.compute_dtype = torch.float32  # type: ignore[assignment]
        widen(p for p in body.parameters() if id(p) not in inside)
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for handle in handles:
            handle.remove()
        for module, dtype in zip(packed, computed, strict=True):
            module.compute_dtype = dtype
        restore(iter(list(narrow)))
