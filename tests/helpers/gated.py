"""What gates do to a model, whatever its layers are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from ila_core.search.gates import Gates


def check_open_and_closed(
    model: Any, logits: Callable[[Any], torch.Tensor], base: torch.Tensor
) -> None:
    """Open gates give stage 1's logits and closed ones the base's, to the bit; none are left."""
    stage1 = logits(model)
    assert not torch.equal(stage1, base)
    with Gates(model) as gates:
        gates.fill(math.inf)
        assert torch.equal(logits(model), stage1)
        gates.fill(-math.inf)
        assert torch.equal(logits(model), base)
        gates.fill(0.0)
        assert not torch.equal(logits(model), stage1)
    assert torch.equal(logits(model), stage1)
