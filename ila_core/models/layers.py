"""The linear layers of a base model: found on the meta device, from its configuration alone.

A layer is one `torch.nn.Linear` with a weight of its own, used in one place.

>>> len(find_layers(load_model_config("llama2-7b")))
225
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ila_core.config import Frozen, ModelConfig
from ila_core.errors import UserError, first_line, unknown_name
from ila_core.keys import digest_of

if TYPE_CHECKING:
    from torch import nn

# Fields of published configurations that transformers reads but keeps under another name.
_OLD_NAMES = ("rope_theta", "rope_scaling")

_BLOCK = re.compile(r"\.(\d+)\.")


class Layer(Frozen):
    """One linear module of the base model. `named_modules()` order is layer order."""

    name: str
    """Full name, e.g. `model.layers.3.mlp.up_proj` or `lm_head`."""
    block: int | None
    """Transformer block index; `None` outside the blocks."""
    type: str
    """Last part of the name: `q_proj`, `up_proj`, `lm_head`."""
    shape: tuple[int, int]
    """(out_features, in_features) of the weight."""

    @property
    def weights(self) -> int:
        """Number of entries of the weight matrix."""
        return self.shape[0] * self.shape[1]


def find_layers(config: ModelConfig) -> list[Layer]:
    """Find the layers of the model that `config.architecture` describes; no weights, no network.

    Raises:
        UserError: an architecture that transformers does not accept, tied embeddings that the
            `lm_head` rule says nothing about, layers that share a weight, or a model whose blocks
            have no linear layers.
    """
    import torch
    from transformers import AutoModelForCausalLM

    published = architecture_config(config)
    if published.tie_word_embeddings and config.lm_head == "adapt":
        raise UserError(
            f"model {config.name}: lm_head: adapt, but its weight is the input embedding "
            "(tie_word_embeddings), where an adapter does not merge; allowed: untie (clone it "
            "first) or exclude"
        )
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(published, trust_remote_code=False)
    except ValueError as error:
        raise UserError(
            f"model {config.name}: {first_line(error)}; a causal language model is needed"
        ) from error
    layers = layers_of(model, lm_head=config.lm_head != "exclude")
    if all(layer.block is None for layer in layers):
        raise UserError(
            f"model {config.name}: the blocks of model_type {published.model_type!r} have no "
            "linear layers (torch.nn.Linear), so there is nothing to rank"
        )
    return layers


def layers_of(model: nn.Module, *, lm_head: bool = True) -> list[Layer]:
    """Find the linear layers of a model in memory, 4-bit ones too, in `named_modules()` order.

    Raises:
        UserError: a module or a weight that two names share.
    """
    from torch.nn import Linear

    _refuse_shared(model)
    head = None if lm_head else _head(model)
    return [
        Layer(
            name=name,
            block=int(found[1]) if (found := _BLOCK.search(name)) else None,
            type=name.rpartition(".")[2],
            shape=(module.out_features, module.in_features),
        )
        for name, module in model.named_modules()
        if isinstance(module, Linear) and module is not head
    ]


def fingerprint(layers: Iterable[Layer]) -> str:
    """Digest what models with interchangeable rankings share: layer names and shapes, in order."""
    return digest_of([[layer.name, layer.shape] for layer in layers])


def architecture_config(config: ModelConfig) -> Any:
    """Make a transformers configuration of `config.architecture`.

    Raises:
        UserError: an unknown `model_type` or field, or a value of the wrong type.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING, AutoConfig

    fields = dict(config.architecture)
    model_type = fields.pop("model_type", None)
    if model_type is None:
        raise UserError(f"model {config.name}: architecture.model_type: required, and not given")
    if model_type not in CONFIG_MAPPING:
        # The list of several hundred known ones would bury the message.
        raise UserError(
            f"model {config.name}: architecture.model_type: given {model_type!r}, which the "
            "installed transformers does not know; copy it from the model's config.json"
        )
    known = {*AutoConfig.for_model(model_type).to_dict(), *_OLD_NAMES}
    for field in fields:
        if field not in known:
            raise unknown_name(f"field of model {config.name}: architecture", field, known)
    try:
        return AutoConfig.for_model(model_type, **fields)
    except (StrictDataclassError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"model {config.name}: architecture: {' '.join(str(error).split())}"
        ) from error


def _refuse_shared(model: nn.Module) -> None:
    # PEFT wraps a module under its first name only, where else it is used stays the base; and two
    # adapters on one weight train, but do not merge.
    from torch.nn import Linear

    first: dict[int, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, Linear):
            other = first.setdefault(id(module.weight), name)
            if other != name:
                raise UserError(
                    f"{other} and {name} share one weight; a layer needs a weight of its own, or "
                    "its adapter would act in one of its places only. Models that share linear "
                    "layers between blocks are not supported"
                )


def _head(model: nn.Module) -> Any:
    return model.get_output_embeddings()  # type: ignore[operator]
