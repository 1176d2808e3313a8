"""The base model of the steps: its identity, its layers, and loading it."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ila_core.config import ModelConfig, RuntimeConfig
from ila_core.errors import CheckError, UserError
from ila_core.models.layers import Layer, fingerprint
from ila_core.models.loading import load_base, resolve_device
from ila_core.resolve import Lock, Unknown

if TYPE_CHECKING:
    from transformers import PreTrainedModel

resident: dict[tuple[object, ...], PreTrainedModel] = {}
"""The one model that evaluations share (`tasks.steps.resident`), or none; a load frees it."""


@dataclass(frozen=True)
class Base:
    config: ModelConfig
    files: dict[str, str] | Unknown
    """Hub id and revision, or the digest of a local folder."""
    layers: tuple[Layer, ...]
    lock: Lock

    @classmethod
    def resolve(cls, config: ModelConfig, lock: Lock) -> Base:
        config = lock.completed(config)
        return cls(config, lock.model(config), lock.layers(config), lock)

    @property
    def has_experts(self) -> bool:
        """Whether the model has tensors of experts, excluded or not."""
        return self.lock.has_experts(self.config)

    @property
    def share(self) -> float:
        """How much of the language model's matrix weights the layers hold."""
        return self.lock.share(self.config)

    @property
    def address(self) -> str:
        """What an adapter's configuration calls the base: its hub id, or its folder."""
        if self.config.local:
            return str(Path(self.config.source).expanduser().absolute())
        return self.config.source

    def identify(self, *model_fields: str, **identity: object) -> dict[str, object] | Unknown:
        """Return a step's identity: the model's files, these of its settings, and `identity`.

        `exclude` goes with `lm_head`: both decide which layers there are.
        """
        for value in (self.files, *identity.values()):
            if isinstance(value, Unknown):
                return value
        settings = {field: getattr(self.config, field) for field in model_fields}
        if "lm_head" in settings and self.config.exclude:
            settings["exclude"] = self.config.exclude
        return {"model": {"files": self.files, **settings}, **identity}

    def check_rank(self, field: str, r: int) -> None:
        """Refuse a rank of adapters that no layer can have.

        Raises:
            UserError: it is larger than each layer's smaller side.
        """
        most = max(min(layer.shape[-2:]) for layer in self.layers)
        if r > most:
            raise UserError(
                f"{field}: given {r:,}; no layer of model {self.config.name} has a rank above "
                f"{most:,}. Allowed is 1 to {most:,}"
            )

    def load(self, runtime: RuntimeConfig, *, four_bit: bool = False) -> PreTrainedModel:
        """Load the model to its device, from the files that identify it.

        Raises:
            CheckError: when its local folder has changed since the run began.
        """
        resident.clear()
        _forget_the_last_one()
        self.require_unchanged()
        return load_base(self.pinned, resolve_device(runtime.device), four_bit=four_bit)

    def require_unchanged(self) -> None:
        """Check that the model's files are unchanged; unchanged files cost one `stat` each.

        Raises:
            CheckError: when its local folder has changed since the run began.
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

    def identify_training(
        self, *model_fields: str, **identity: object
    ) -> dict[str, object] | Unknown:
        """Return the identity of a step that computes with the weights."""
        shapes = fingerprint(self.layers)
        return self.identify("dtype", "lm_head", *model_fields, layer_shapes=shapes, **identity)


def _forget_the_last_one() -> None:
    """Free the last model: PEFT and Trainer leave reference cycles, which would keep it alive."""
    import torch

    gc.collect()
    gc.freeze()  # what is left are libraries; looking through them at each load takes 0.5 s
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
