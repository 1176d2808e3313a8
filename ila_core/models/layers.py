"""The linear layers of a base model: found on the meta device, from its configuration alone.

A layer is one `torch.nn.Linear` of the language model with a weight of its own, used in one place,
or one tensor of all experts of a block (`ila_core.models.experts`).

>>> len(find_layers(load_model_config("llama2-7b")))
225
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ila_core.config import Frozen, ModelConfig
from ila_core.errors import UserError, first_line, listed
from ila_core.keys import digest_of
from ila_core.models.architecture import architecture_config
from ila_core.models.experts import adapted_layers, expert_tensors

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, int] | tuple[int, int, int]

_BLOCK = re.compile(r"\.(\d+)\.")

UNCOVERED = 0.05
"""The largest share of a model's matrix weights that may lie outside of its layers unsaid."""
_NAMED = 3
"""So many parameters outside of the layers, the largest, are named."""


class Layer(Frozen):
    """One linear module of the base model. `named_modules()` order is layer order."""

    name: str
    """Full name, e.g. `model.layers.3.mlp.up_proj` or `lm_head`; of a tensor of experts that of
    the parameter, e.g. `model.layers.3.mlp.experts.down_proj`."""
    block: int | None
    """Transformer block index; `None` outside the blocks."""
    type: str
    """The end of the name that no other kind of layer of the model has: `q_proj`, `lm_head`, or
    `attn.c_proj` where there is an `mlp.c_proj` too."""
    shape: Shape
    """(out_features, in_features) of the weight; a tensor of experts as it is kept."""

    @property
    def weights(self) -> int:
        """Number of entries of the weight."""
        return math.prod(self.shape)

    @property
    def parameter(self) -> str:
        """Full name of the weight as a parameter."""
        return self.name if self.holds_experts else f"{self.name}.weight"

    @property
    def holds_experts(self) -> bool:
        """Whether it is a tensor of experts, and no module."""
        return len(self.shape) == 3


class Examined(Frozen):
    """The layers of a model, and what of its weights they are."""

    layers: tuple[Layer, ...]
    share: float
    """The share that they hold of the language model's matrix weights: all parameters of two or
    more dimensions but embeddings, and but what the profile excludes."""
    outside: str
    """The largest parameters that are in no layer and not excluded, as text; may be empty."""
    positions: int | None
    """Most tokens of a row; `None` where the architecture has no limit."""
    has_experts: bool
    """Whether it has tensors of experts, excluded ones too: what they hold in a training depends on
    which expert each token goes to."""


def find_layers(config: ModelConfig) -> list[Layer]:
    """Find the layers of a model from its configuration alone; no weights are read.

    Raises:
        UserError: as `examine`.
    """
    return list(examine(config).layers)


def examine(config: ModelConfig) -> Examined:
    """Find the layers of a model from its configuration alone, and count their weights.

    Raises:
        UserError: an architecture that transformers does not accept, tied embeddings that the
            `lm_head` rule says nothing about, layers that share a weight, an entry of `exclude`
            that matches nothing, a model whose blocks have no linear layers, one with much outside
            of its layers, or layers that PEFT does not adapt.
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
    except Exception as error:  # of any type, where two values do not go together
        raise UserError(
            f"model {config.name}: transformers makes no causal language model of its architecture "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error
    every = layers_of(model)
    chosen = _without_excluded(every, config, model)
    if all(layer.block is None for layer in chosen):
        raise UserError(
            f"model {config.name}: the blocks of model_type {published.model_type!r} have no "
            f"linear layers (torch.nn.Linear), so there is nothing to rank{_instead(model)}"
        )
    outside = _outside(model, every)
    covered = sum(layer.weights for layer in chosen)
    share = covered / (covered + sum(outside.values()))
    largest = sorted(outside, key=lambda name: -outside[name])
    text = listed([f"{name} ({outside[name]:,})" for name in largest], most=_NAMED)
    if 1 - share > UNCOVERED and not config.allow_uncovered:
        raise UserError(
            f"model {config.name}: its {len(chosen)} linear layers hold {share:.1%} of its matrix "
            f"weights; outside of them, neither ranked nor trained by a selection, are {text}. "
            f"Allowed is {UNCOVERED:.0%} outside; to rank the linear layers alone, write "
            "`allow_uncovered: true` in the model profile"
        )
    _refuse_what_peft_does(model, chosen, config)
    return Examined(
        layers=tuple(chosen),
        share=share,
        outside=text,
        positions=_positions(published),
        has_experts=any(layer.holds_experts for layer in every),
    )


def layers_of(model: nn.Module, *, lm_head: bool = True) -> list[Layer]:
    """Find the layers of a model in memory, 4-bit ones too, in `named_modules()` order.

    Of a model that also sees or hears, those of its language model.

    Raises:
        UserError: a module or a weight that two names share.
    """
    _refuse_shared(model)
    head, language = _head(model), language_model(model)
    within = None if language is None else {*map(id, language.modules()), id(head)}
    found: dict[str, Shape] = {}
    for name, module in model.named_modules():
        if within is not None and id(module) not in within:
            continue
        if _is_layer(module) and (lm_head or module is not head):
            found[name] = module.out_features, module.in_features
        for own, tensor in expert_tensors(module).items():
            found[f"{name}.{own}"] = tensor.shape[0], tensor.shape[1], tensor.shape[2]
    types = _types(found)
    return [
        Layer(
            name=name,
            block=int(block[1]) if (block := _BLOCK.search(name)) else None,
            type=types[name],
            shape=shape,
        )
        for name, shape in found.items()
    ]


def language_model(model: Any) -> Any:
    """The decoder in a model that has other parts, such as an image encoder; else `None`."""
    config = getattr(model, "config", None)
    if config is None or config.get_text_config(decoder=True) is config:
        return None
    decoder = model.get_decoder()
    return None if decoder is model else decoder


def fingerprint(layers: Iterable[Layer]) -> str:
    """Digest what models with interchangeable rankings share: layer names and shapes, in order."""
    return digest_of([[layer.name, layer.shape] for layer in layers])


def _refuse_shared(model: nn.Module) -> None:
    # PEFT wraps a module under its first name only, where else it is used stays the base; and two
    # adapters on one weight train, but do not merge.
    from torch.nn import Linear

    first: dict[int, str] = {}
    for module_name, module in model.named_modules(remove_duplicate=False):
        tensors = expert_tensors(module)
        weights = {f"{module_name}.{own}": tensor for own, tensor in tensors.items()}
        if isinstance(module, Linear):
            weights[module_name] = module.weight
        for name, weight in weights.items():
            other = first.setdefault(id(weight), name)
            if other != name:
                raise UserError(
                    f"{other} and {name} share one weight; a layer needs a weight of its own, or "
                    "its adapter would act in one of its places only. Models that share linear "
                    "layers between blocks are not supported"
                )


def _is_layer(module: nn.Module) -> bool:
    """Whether it is a linear module that gives what one gives: PhiMoE's router is one by its class,
    and gives a choice of experts."""
    import torch
    from torch.nn import Linear

    if not isinstance(module, Linear):
        return False
    if not type(module).__module__.startswith("transformers.models"):
        return True  # torch's own, or one in 4 bits
    given = module.weight.new_zeros(1, 1, module.in_features)
    try:
        with torch.no_grad():
            return isinstance(module(given), torch.Tensor)
    except (RuntimeError, TypeError, ValueError):
        return False


def _head(model: Any) -> Any:
    return model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None


def _types(names: Iterable[str]) -> dict[str, str]:
    """The type of each layer: the shortest end of its name that no other kind has.

    A kind is a name below its block, `self_attn.q_proj`; it is one in all blocks.
    """
    kinds = {name: name[m.end() :] if (m := _BLOCK.search(name)) else name for name in names}
    ends: dict[str, set[str]] = {}
    for kind in kinds.values():
        for end in _ends(kind):
            ends.setdefault(end, set()).add(kind)
    return {
        name: next((end for end in _ends(kind) if len(ends[end]) == 1), kind)
        for name, kind in kinds.items()
    }


def _ends(kind: str) -> list[str]:
    parts = kind.split(".")
    return [".".join(parts[i:]) for i in range(len(parts) - 1, -1, -1)]


def _without_excluded(layers: list[Layer], config: ModelConfig, model: Any) -> list[Layer]:
    def fits(entry: str, name: str) -> bool:
        return name.startswith(f"{entry}.") or re.fullmatch(entry, name) is not None

    for entry in config.exclude:
        if not any(fits(entry, layer.name) for layer in layers):
            raise UserError(
                f"model {config.name}: exclude: {entry!r} matches no layer; allowed are a module's "
                "full name and a regular expression for a layer's full name, such as "
                f"{layers[0].name!r} or {'.*[.]' + layers[0].type!r}"
            )
    head = _head(model)
    heads = {n for n, m in model.named_modules() if m is head and config.lm_head == "exclude"}
    return [
        layer
        for layer in layers
        if layer.name not in heads and not any(fits(entry, layer.name) for entry in config.exclude)
    ]


def _outside(model: Any, layers: list[Layer]) -> dict[str, int]:
    """The matrix weights of the language model that are in no layer, by parameter."""
    from torch.nn import Embedding

    own = language_model(model)
    part = model if own is None else own
    prefix = next(name for name, module in model.named_modules() if module is part)
    known = {id(model.get_parameter(layer.parameter)) for layer in layers}
    known |= {id(m.weight) for m in model.modules() if isinstance(m, Embedding)}
    return {
        name: parameter.numel()
        for name, parameter in part.named_parameters(prefix)
        if parameter.dim() >= 2 and id(parameter) not in known
    }


def _refuse_what_peft_does(model: Any, layers: list[Layer], config: ModelConfig) -> None:
    """Put adapters on the layers and see where they are; the model, on the meta device, keeps them.

    PEFT 0.21 refuses some layers of Mamba, and where a model's experts were linear modules in
    transformers 4 it takes `mlp.gate_proj` for one of them, though it is a layer beside them.
    """
    import warnings

    import torch
    from peft import LoraConfig, get_peft_model

    wanted = {layer.name for layer in layers}
    experts = {layer.name for layer in layers if layer.holds_experts}
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a head that is untied later, of what is refused
            settings = LoraConfig(
                r=1, target_modules=sorted(wanted - experts), target_parameters=sorted(experts)
            )
            adapted = get_peft_model(model, settings)
        missed = sorted(wanted - adapted_layers(adapted.get_base_model()).keys())
        what = listed(missed, most=_NAMED)
    except ValueError as error:
        missed, what = ["all"], f"these layers together ({first_line(error)})"
    if missed:
        raise UserError(
            f"model {config.name}: PEFT puts no adapter on {what}; "
            "leave out what it does not take, with `exclude:` in the model profile"
        )


def _positions(published: Any) -> int | None:
    text = published.get_text_config(decoder=True)
    limit = getattr(text, "max_position_embeddings", None)
    rope = getattr(text, "rope_parameters", None) or {}
    stretched = (rope.get("factor") or 1) * (rope.get("original_max_position_embeddings") or 0)
    return None if limit is None else max(int(limit), int(stretched))


def _instead(model: nn.Module) -> str:
    from transformers.pytorch_utils import Conv1D

    if not any(isinstance(module, Conv1D) for module in model.modules()):
        return ""
    return (
        " (they are transformers' Conv1D, which keeps a weight the other way round, and neither "
        "gates nor masks are made for that)"
    )
