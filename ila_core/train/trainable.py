"""A model that a method has made ready for training, with what its training needs beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import TrainerCallback


@dataclass
class Trainable:
    model: Any
    expected_parameters: int
    """How many train, from the base's shapes and the settings alone."""
    also_trains: Sequence[str] = ()
    """Parameters outside the selected layers that train under this method."""
    proof: str = ""
    """Part of the names of parameters whose gradients prove that a layer trains; all by default."""
    callbacks: Sequence[TrainerCallback] = ()
    penalty: Callable[[], torch.Tensor] | None = None
    """Added to the loss once a step, 0-d."""
    autocast: torch.dtype | None = None
    """What a step computes in, where that is not the weights' own dtype."""
    ranks: Callable[[], Mapping[str, int]] | None = None
    """Each layer's rank at the end, where training decides it.

    Raises:
        CheckError: they are not what was asked for.
    """
