"""How selected layers are trained: one file per method, one line in `METHODS`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ila_core.methods.lora import Lora


class Method(Protocol):
    def attach(self, model: Any, layers: Sequence[str], settings: Any, seed: int) -> Any:
        """Make exactly `layers` of the base model trainable; returns a `PeftModel`."""
        ...

    def parameters(self, model: Any, layers: Sequence[str], settings: Any) -> int:
        """Trainable parameters that `attach` must lead to, from the base model's shapes alone."""
        ...


METHODS: dict[str, Method] = {"lora": Lora()}
