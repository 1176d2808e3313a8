"""LoRA on exactly the selected layers, and adapters as plain PEFT folders.

PEFT ignores a name that matches nothing, so names are checked before and layers after.
"""

import hashlib
import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ila_core.config import LoraSettings
from ila_core.config.finetune import per_rank
from ila_core.errors import CheckError, UserError, listed, unknown_name
from ila_core.models.experts import adapted_layers, adapts_experts, all_expert_tensors
from ila_core.train.trainable import Trainable


class Lora:
    """`y = W x + (alpha / r) B A x` (Eq. 4); B starts at 0, A from the seed."""

    version = 5
    four_bit = False
    experts = True
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
        expected = sum(
            (ranks[name] if ranks else settings.r) * per_rank(shape)
            for name, shape in layer_shapes(model, layers).items()
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

        experts = [n for n, shape in layer_shapes(model, layers).items() if len(shape) == 3]
        config = LoraConfig(
            r=settings.r,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            # Lists are matched by full name, never as an expression.
            target_modules=[name for name in layers if name not in experts],
            target_parameters=experts or None,
            rank_pattern=dict(ranks or {}),
            alpha_pattern={n: settings.alpha * r / settings.r for n, r in (ranks or {}).items()},
            task_type="CAUSAL_LM",
        )
        with _ranks_of_experts():
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
    found: dict[str, Any] = adapted_layers(model.get_base_model())
    return found


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
    # PEFT keeps sets, in no stable order.
    experts = sorted(n for n, layer in lora_layers(model).items() if adapts_experts(layer))
    config.target_modules = sorted(lora_layers(model).keys() - {*experts})
    config.target_parameters = experts or None
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
    from peft.tuners.lora import LoraLayer
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
    modules = {name for name, _ in base.named_modules()}
    # Around experts PEFT nests wrappers, one for each tensor.
    missing = sorted(n for n in stored if re.sub(r"(\.base_layer)+$", "", n) not in modules)
    if missing:
        raise CheckError(
            f"the base model has no layer {', '.join(missing)}: another model's adapter?"
        )
    config = json.loads((folder / "adapter_config.json").read_bytes())
    parameters = [f".{name}" for name, _ in base.named_parameters()]
    unknown = [
        entry
        for entry in config.get("target_parameters") or ()
        if not any(name.endswith(f".{entry}") for name in parameters)
    ]
    if unknown:
        raise CheckError(
            f"the base model has no parameter {listed(unknown)}: another model's adapter?"
        )
    with _ranks_of_experts():
        model = PeftModel.from_pretrained(base, str(folder), is_trainable=trainable)
    arrived = {n for n, m in base.named_modules() if isinstance(m, LoraLayer)}
    if odd := sorted(stored ^ arrived):
        raise CheckError(f"adapter weights and adapter_config.json differ in {', '.join(odd)}")
    return model


@contextmanager
def _ranks_of_experts() -> Iterator[None]:
    """PEFT 0.21 heeds the rank of a parameter, and warns that it did not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys")
        yield


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


def layer_shapes(model: Any, layers: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """(out, in) of each linear layer, and the shape of each tensor of experts.

    Raises:
        UserError: a name that is neither.
    """
    experts = all_expert_tensors(model)
    names = [name for name in layers if name not in experts]
    linears = zip(names, linear_layers(model, names), strict=True)
    found = {name: (linear.out_features, linear.in_features) for name, linear in linears}
    return {name: found.get(name) or tuple(experts[name].shape) for name in layers}


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
