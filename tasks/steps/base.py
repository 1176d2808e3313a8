"""The base model as the steps see it: what identifies it, and the layers it has."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

from ila_core.config import ModelConfig, RuntimeConfig
from ila_core.errors import CheckError
from ila_core.models.layers import Layer
from ila_core.models.loading import load_base, resolve_device
from ila_core.resolve import Lock, Unknown

resident: dict[tuple[Any, ...], Any] = {}
"""At most one model that evaluations share (`tasks.steps.resident`); loading another frees it."""


@dataclass(frozen=True)
class Base:
    config: ModelConfig
    files: dict[str, str] | Unknown
    """Hub id and revision, or the digest of a local folder."""
    layers: tuple[Layer, ...]
    lock: Lock

    @classmethod
    def resolve(cls, config: ModelConfig, lock: Lock) -> Base:
        return cls(config, lock.model(config), lock.layers(config), lock)

    @property
    def address(self) -> str:
        """What an adapter says its base is: the hub id, or the name where it is a local folder."""
        return self.config.name if self.config.local else self.config.source

    def identify(self, *model_fields: str, **identity: Any) -> dict[str, Any] | Unknown:
        """A step's identity: the model's files, those of its settings that matter, and the rest."""
        for value in (self.files, *identity.values()):
            if isinstance(value, Unknown):
                return value
        settings = {field: getattr(self.config, field) for field in model_fields}
        return {"model": {"files": self.files, **settings}, **identity}

    def load(self, runtime: RuntimeConfig, *, four_bit: bool = False) -> Any:
        """The model on its device, from the files that the keys stand for.

        Raises:
            CheckError: a local folder that has changed since the run began.
        """
        resident.clear()
        _forget_the_last_one()
        self.require_unchanged()
        return load_base(self.pinned, resolve_device(runtime.device), four_bit=four_bit)

    def require_unchanged(self) -> None:
        """Before anything is read from its folder; one that is as it was costs a look at each file.

        Raises:
            CheckError: a local folder that has changed since the run began.
        """
        if self.lock.model(self.config) != self.files:
            raise CheckError(
                f"the base model in {self.config.source} changed while the run was under way; run "
                "the same command again"
            )

    @property
    def pinned(self) -> ModelConfig:
        """The configuration with its hub revision resolved."""
        assert not isinstance(self.files, Unknown)
        return self.config.model_copy(update={"revision": self.files.get("revision")})

    def identify_training(self, **identity: Any) -> dict[str, Any] | Unknown:
        """The identity of a step that computes with the weights."""
        return self.identify("dtype", "lm_head", **identity)


def _forget_the_last_one() -> None:
    """PEFT and Trainer leave cycles behind: without this, two models would be in memory at once."""
    import torch

    gc.collect()
    gc.freeze()  # what is left are libraries; looking through them at each load takes 0.5 s
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
