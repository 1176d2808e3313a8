"""LoRA on exactly the selected layers, and adapters as plain PEFT folders.

PEFT ignores a name that matches nothing, so names are checked before and layers after.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ila_core.config import LoraSettings
from ila_core.errors import CheckError, UserError, unknown_name
from ila_core.train.trainable import Trainable


class Lora:
    """`y = W x + (alpha / r) B A x` (Eq. 4); B starts at 0, A from the seed."""

    version = 5
    four_bit = False
    folder = "adapter"

    def check(self, settings: LoraSettings, steps: int) -> None:
        """Any number of steps will do."""

    def prepare(
        self,
        model: Any,
        layers: Sequence[str],
        settings: LoraSettings,
        *,
        seed: int,
        steps: int,
        ranks: Mapping[str, int] | None = None,
    ) -> Trainable:
        linears = zip(layers, linear_layers(model, layers), strict=True)
        expected = sum(
            (ranks[name] if ranks else settings.r) * (x.in_features + x.out_features)
            for name, x in linears
        )
        return Trainable(self.attach(model, layers, settings, seed, ranks), expected)

    def attach(
        self,
        model: Any,
        layers: Sequence[str],
        settings: LoraSettings,
        seed: int,
        ranks: Mapping[str, int] | None = None,
    ) -> Any:
        """The `PeftModel`; alpha / r is the same at every rank."""
        from peft import LoraConfig, get_peft_model

        linear_layers(model, layers)
        config = LoraConfig(
            r=settings.r,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=list(layers),  # a list is matched by full name, never as an expression
            rank_pattern=dict(ranks or {}),
            alpha_pattern={n: settings.alpha * r / settings.r for n, r in (ranks or {}).items()},
            task_type="CAUSAL_LM",
        )
        adapted = get_peft_model(model, config)
        for name, layer in lora_layers(adapted).items():
            initialise(layer.lora_A["default"].weight, f"{seed}/{name}")
        return adapted

    def save(self, model: Any, folder: Path, base_name: str | None) -> None:
        save_adapter(model, folder, base_name)

    def load(self, base: Any, folder: Path) -> Any:
        return load_adapter(base, folder)

    def detach(self, model: Any) -> None:
        model.unload()


def lora_layers(model: Any) -> dict[str, Any]:
    """The adapted layers by the base model's own names, in layer order."""
    from peft.tuners.lora import LoraLayer

    modules = model.get_base_model().named_modules()
    return {name: module for name, module in modules if isinstance(module, LoraLayer)}


def save_adapter(model: Any, folder: Path, base_name: str | None = None) -> None:
    """Write a plain PEFT folder, the same bytes for the same weights.

    Args:
        model: the `PeftModel`.
        folder: made if it does not exist.
        base_name: hub id or name of the base; by default the name it was loaded by, and of a
            folder its last part, because this machine's paths mean nothing elsewhere.
    """
    config = model.peft_config["default"]
    loaded_from = model.get_base_model().name_or_path or None
    if loaded_from is not None and Path(loaded_from).exists():
        loaded_from = Path(loaded_from).resolve().name
    config.base_model_name_or_path = base_name or loaded_from
    config.target_modules = sorted(lora_layers(model))  # PEFT keeps a set, in no stable order
    # An adapter on lm_head would otherwise bring the whole base lm_head along (86 KB for 6 KB).
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's blank model card holds a local path


def load_adapter(base: Any, folder: Path, trainable: bool = False) -> Any:
    """Put the adapter in `folder` on `base`, in place, and make sure that all of it arrived.

    Raises:
        UserError: no adapter there.
        CheckError: the adapter has layers that the base model lacks.
    """
    from peft import PeftModel
    from safetensors import safe_open

    weights = folder / "adapter_model.safetensors"
    if not (weights.is_file() and (folder / "adapter_config.json").is_file()):
        raise UserError(
            f"{folder} is no PEFT adapter (adapter_config.json, adapter_model.safetensors)"
        )
    with safe_open(str(weights), framework="pt") as file:
        stored = {
            re.sub(r"^base_model\.model\.|\.lora_[ABE](\.weight)?$", "", k)
            for k in file.keys()  # noqa: SIM118
        }
    missing = sorted(stored - {name for name, _ in base.named_modules()})
    if missing:
        raise CheckError(
            f"the base model has no layer {', '.join(missing)}: another model's adapter?"
        )
    model = PeftModel.from_pretrained(base, str(folder), is_trainable=trainable)
    if stored != set(lora_layers(model)):
        odd = sorted(stored ^ set(lora_layers(model)))
        raise CheckError(f"adapter weights and adapter_config.json differ in {', '.join(odd)}")
    return model


def initialise(weight: Any, seed: str, std: float | None = None) -> None:
    """PEFT's initial A, drawn by layer name: the same in every selection, on every device.

    Args:
        weight: filled in place.
        seed: whatever it is to depend on.
        std: of a normal distribution; `None` is Kaiming's uniform one.
    """
    import torch

    drawn = torch.empty(weight.shape)
    generator = torch.Generator().manual_seed(_number(seed))
    if std is None:
        torch.nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
    else:
        torch.nn.init.normal_(drawn, std=std, generator=generator)
    weight.data.copy_(drawn)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def linear_layers(model: Any, layers: Sequence[str]) -> list[Any]:
    """The modules called `layers`.

    Raises:
        UserError: a name that is no linear module of the model.
    """
    from torch import nn

    linear = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    for name in layers:
        if name not in linear:
            raise unknown_name("layer", name, linear)
    return [linear[name] for name in layers]
