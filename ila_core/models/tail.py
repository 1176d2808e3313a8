"""What a model does to its logits after `lm_head`: nothing, a scale, a soft cap, or both.

It is measured, not read from the configuration: Granite divides by its `logits_scaling`, HyperCLOVA
multiplies by one of the same name, and a Gemma 3 with an image encoder has a cap that it ignores.

    >>> tail = tail_of(lambda: gemma2(ids).logits, gemma2.lm_head, "Gemma2ForCausalLM")
    >>> tail
    Tail(scale=1.0, cap=30.0)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ila_core.errors import CheckError

_SMALLEST, _LARGEST = -20, 20
"""Powers of two of the logits that are tried: far below any cap, and far above."""
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Tail:
    """`cap tanh(scale x / cap)`; with no cap `scale x`."""

    scale: float
    cap: float | None

    def __call__(self, logits: Tensor) -> Tensor:
        if self.scale != 1:
            logits = logits * self.scale
        if self.cap is not None:
            logits = torch.tanh(logits / self.cap) * self.cap
        return logits


def tail_of(own_logits: Callable[[], Tensor], head: nn.Module, name: str) -> Tail:
    """Find a model's tail by what it makes of chosen outputs of its head.

    Args:
        own_logits: runs the model and returns its logits, whatever the text.
        head: its `lm_head`, whose output is replaced meanwhile.
        name: of the model, for the error.

    Raises:
        CheckError: it is no scale and no soft cap.
    """
    given: list[Tensor] = []

    def replaced(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        count = output.numel() // 2
        half = torch.logspace(_SMALLEST, _LARGEST, count, base=2, device=output.device)
        values = torch.cat([half, -half, half.new_zeros(output.numel() % 2)])
        given.append(values.view(output.shape))
        return given[-1]

    handle = head.register_forward_hook(replaced)
    try:
        found = own_logits()
    finally:
        handle.remove()
    if len(given) == 1 and found.shape == given[0].shape:
        x, y = given[0].flatten(), found.float().flatten()
        scale, highest = (y[0] / x[0]).item(), y.max().item()
        scale = 1.0 if abs(scale - 1) < _ROUNDING else scale
        capped = highest < 0.5 * scale * x.max().item()
        tail = Tail(scale, highest if capped else None)
        if math.isfinite(scale) and scale > 0 and torch.allclose(tail(x), y, rtol=1e-4):
            return tail
    raise CheckError(
        f"{name} changes its logits after lm_head by more than a scale and a soft cap, which the "
        "chunked loss would leave out; use a model whose logits are lm_head(body(x))"
    )
