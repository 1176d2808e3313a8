"""A base model and its tokenizer, from a local folder or from the hub, checked before use.

    >>> config = load_model_config("mistral-7b")
    >>> tokenizer, model = load_tokenizer(config), load_base(config, "cuda")

A hub model is downloaded first and then read as the folder it is, so both ways give the same.
A `revision` of `null` reads the hub's newest; pass a config whose revision is the locked one.
"""

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ila_core.config import ModelConfig
from ila_core.data.template import Template
from ila_core.errors import CheckError, UserError, first_line, listed
from ila_core.models.architecture import (
    architecture_config,
    as_loaded,
    published_config,
    read_tokenizer,
    saved_as,
)
from ila_core.models.files import CONFIG, TOKENIZER_FILES, WEIGHT_FILES, model_folder
from ila_core.models.quantised import refuse_quantised

log = logging.getLogger("ila")

# Compared with the hub's whether or not the profile gives them: they shape the layers, or change
# what the model computes.
_DECISIVE = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "rope_parameters",
    "sliding_window",
    "tie_word_embeddings",
)


def resolve_device(given: str) -> str:
    """`auto` is the first accelerator, or the CPU.

    Raises:
        UserError: a device that torch does not know or that is not here.
    """
    import torch

    if given == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return found.type if found else "cpu"
    try:
        torch.empty(0, device=given)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device {given!r} (ILA_DEVICE) cannot be used: {first_line(error)}; "
            f"allowed here: auto, {resolve_device('auto')}, cpu"
        ) from error
    return given


def load_tokenizer(config: ModelConfig) -> Any:
    """Load the fast tokenizer.

    Raises:
        UserError: files that are missing, a pad token that is unknown, or tokens that the model's
            embedding has no rows for.
    """
    tokenizer = read_tokenizer(model_folder(config, (CONFIG, *TOKENIZER_FILES)), config.name)
    if config.pad_token is not None:
        if config.pad_token not in tokenizer.get_vocab():
            raise UserError(
                f"model {config.name}: pad_token: given {config.pad_token!r}, which the tokenizer "
                "does not have; allowed is any token of its vocabulary"
            )
        tokenizer.pad_token = config.pad_token
    _check_ids(config, tokenizer)
    return tokenizer


def save_tokenizer(
    tokenizer: Any, template: str | None, variables: Mapping[str, object], folder: Path
) -> None:
    """Write the tokenizer with the chat template that a model was trained with, if it has one."""
    if template is not None or tokenizer.chat_template is not None:
        tokenizer.chat_template = Template(tokenizer, template, variables).stored
    tokenizer.save_pretrained(folder)


def _check_ids(config: ModelConfig, tokenizer: Any) -> None:
    """Refuse a tokenizer that can give ids beyond the embedding, in any text: an IndexError."""
    rows = architecture_config(config).get_text_config(decoder=True).vocab_size
    beyond = {token: i for token, i in tokenizer.get_vocab().items() if i >= rows}
    if beyond:
        names = [f"{token!r} ({i})" for token, i in sorted(beyond.items(), key=lambda x: x[1])]
        raise UserError(
            f"model {config.name}: the tokenizer has {listed(names)}, and the model's embedding "
            f"has rows for the ids 0 to {rows - 1} only (vocab_size); take the tokenizer that the "
            "model was trained with, or remove these tokens (no pad token is needed)"
        )


def in_float64(numbers: Any) -> Any:
    """The numbers in float64, on the CPU where their device (Apple's MPS) has none."""
    return (numbers.cpu() if numbers.device.type == "mps" else numbers).double()


def load_base(config: ModelConfig, device: str, *, four_bit: bool = False) -> Any:
    """Load the base in its profile's dtype on `device`; untie `lm_head` where the profile says so.

    Args:
        config: which model.
        device: as `resolve_device` gives it.
        four_bit: linear weights but that of `lm_head` in NF4 with double quantisation (QLoRA).

    Raises:
        UserError: files that are missing or unreadable, an architecture that is not the profile's,
            or a device or an environment that cannot hold weights in 4 bits.
    """
    import torch
    from transformers import AutoModelForCausalLM

    published = published_config(config)
    check_architecture(config, published)  # before gigabytes are downloaded
    config = as_loaded(config, saved_as(published), bool(published.tie_word_embeddings))
    folder = model_folder(config, (CONFIG, *WEIGHT_FILES))
    refuse_quantised(config.name, folder)
    quantised = _four_bit(getattr(torch, config.dtype), device) if four_bit else {}
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            **quantised,
            dtype=getattr(torch, config.dtype),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # of any type, where a file holds what it should not
        raise UserError(
            f"model {config.name}: its weights cannot be read from {folder} ({first_line(error)})"
        ) from error
    if found["missing_keys"]:
        # transformers would fill them with random numbers and only warn.
        missing = ", ".join(sorted(found["missing_keys"]))
        raise UserError(f"model {config.name}: {folder} lacks the weights {missing}")
    if found["unexpected_keys"]:  # but those that transformers itself declares harmless
        raise UserError(
            f"model {config.name}: {folder} has weights that {type(model).__name__} has no place "
            f"for: {listed(sorted(found['unexpected_keys']))}; without them it is another model. "
            f"Is {CONFIG} that of these weights?"
        )
    _say_attention(config, model)
    model.config.use_cache = False  # training never continues a text
    if config.lm_head == "untie":
        untie(model)
    if four_bit:
        _check_four_bit(model, config)
        return model
    return model.to(device)


def _say_attention(config: ModelConfig, model: Any) -> None:
    """transformers takes SDPA wherever an architecture has it."""
    if (found := model.config._attn_implementation) != "sdpa":
        log.info(
            "model %s: %s has no SDPA attention in transformers; %s is used, which is slower and "
            "takes memory with the square of a row's length",
            *(config.name, type(model).__name__, found),
        )


def _four_bit(dtype: Any, device: str) -> dict[str, Any]:
    """Return what `from_pretrained` needs to quantise while it loads."""
    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise UserError(
            "weights in 4 bits (qlora) need bitsandbytes, which is not installed: "
            "pip install bitsandbytes. Nothing falls back to 16 bits"
        )
    if device not in ("cpu", "cuda", "xpu"):
        raise UserError(
            f"bitsandbytes keeps no weights in 4 bits on {device}; allowed are cuda, xpu and cpu "
            "(ILA_DEVICE), or another method"
        )
    return {
        "device_map": {"": device},
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=["lm_head"],
        ),
    }


def _check_four_bit(model: Any, config: ModelConfig) -> None:
    """Check that every linear layer but the head is in 4 bits and stays differentiable."""
    from bitsandbytes.nn.modules import Linear4bit
    from torch.nn import Linear

    head = model.get_output_embeddings()
    plain = [
        name
        for name, module in model.named_modules()
        if isinstance(module, Linear) and not isinstance(module, Linear4bit) and module is not head
    ]
    if plain:
        raise CheckError(f"model {config.name}: {listed(plain)} were not quantised")
    for module in model.modules():
        if isinstance(module, Linear4bit):
            # 0.50.2: where a CPU has AVX512-BF16, one forward in eval mode turns the weight into a
            # format that has no gradient, for good. CUDA has no such path.
            module.support_avx512bf16_for_cpu = False


def untie(model: Any) -> None:
    """Give the output head its own copy of the input embedding.

    A LoRA update of a tied head trains and reloads exactly but merges wrongly: it would change
    the embedding too.
    """
    from torch.nn import Parameter

    head = model.get_output_embeddings()
    head.weight = Parameter(head.weight.detach().clone())
    model.config.tie_word_embeddings = False
    # Worked out from the configuration when the model was made; else saving drops the head.
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)


def check_architecture(config: ModelConfig, published: Any) -> None:
    """Compare the profile's `architecture` with the configuration that the model came with.

    Raises:
        UserError: naming every field that differs.
    """
    if not config.architecture:
        return
    ours, theirs = architecture_config(config).to_dict(), published.to_dict()
    differing = [
        f"model {config.name}: architecture.{field}: given {ours.get(field)!r}, the model's "
        f"{CONFIG} has {theirs.get(field)!r}"
        for field in dict.fromkeys((*_DECISIVE, *config.architecture))
        if ours.get(field) != theirs.get(field)
    ]
    if differing:
        raise UserError("\n".join(differing))
