"""What a model's own files say of it before any weight is read: its configuration, and more."""

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from ila_core.config import Frozen, ModelConfig
from ila_core.config.inputs import template_text
from ila_core.errors import UserError, first_line, unknown_name
from ila_core.models.files import CONFIG, TOKENIZER_FILES, model_folder

# Fields of published configurations that transformers reads but keeps under another name.
_OLD_NAMES = ("rope_theta", "rope_scaling")

_MISSPELT = 0.8
"""An undeclared field this much like a declared one is taken for it, misspelt."""


class ModelFacts(Frozen):
    """What a profile may leave to the model's own files."""

    dtype: Literal["float32", "bfloat16"]
    """What its weights were saved as; bfloat16 where that is float16."""
    tied: bool
    """Whether its output head is its input embedding."""
    template: bool
    """Whether its tokenizer has a chat template."""


def facts(config: ModelConfig) -> ModelFacts:
    """Read a model's configuration and tokenizer; those of the hub are downloaded.

    Raises:
        UserError: files that are missing or that transformers cannot read.
    """
    published = published_config(config)
    folder = model_folder(config, (CONFIG, *TOKENIZER_FILES))
    return ModelFacts(
        dtype=saved_as(published),
        tied=bool(published.tie_word_embeddings),
        template=bool(read_tokenizer(folder, config.name).chat_template),
    )


def saved_as(published: Any) -> Literal["float32", "bfloat16"]:
    """What weights of a model are loaded as; those without a type were saved as float32."""
    dtype = published.dtype or published.get_text_config(decoder=True).dtype
    return "float32" if dtype is None or "float32" in str(dtype) else "bfloat16"


def completed(config: ModelConfig, known: Callable[[], ModelFacts]) -> ModelConfig:
    """Fill in what a profile leaves to the model's own files.

    Args:
        config: the model.
        known: gives its facts, where something is left open.
    """
    if config.architecture and config.template and "auto" not in (config.dtype, config.lm_head):
        return config
    found = known()
    template = config.template or (None if found.template else template_text("plain"))
    return as_loaded(config.model_copy(update={"template": template}), found.dtype, found.tied)


def as_loaded(
    config: ModelConfig, dtype: Literal["float32", "bfloat16"], tied: bool
) -> ModelConfig:
    """Fill in how the weights are loaded, by what they were saved as."""
    update: dict[str, str] = {}
    if config.dtype == "auto":
        update["dtype"] = dtype
    if config.lm_head == "auto":
        update["lm_head"] = "untie" if tied else "adapt"
    return config.model_copy(update=update)


def architecture_config(config: ModelConfig) -> Any:
    """Make a transformers configuration of `config.architecture`, or read the model's own.

    Raises:
        UserError: an unknown `model_type`, a field that looks like a misspelt one, or a value of
            the wrong type. Any other field that transformers does not declare is kept: published
            configurations have such ones, and it is compared with the model's own when it loads.
    """
    from transformers import CONFIG_MAPPING, AutoConfig

    if not config.architecture:
        return published_config(config)
    fields = dict(config.architecture)
    model_type = fields.pop("model_type", None)
    if model_type is None:
        raise UserError(f"model {config.name}: architecture.model_type: required, and not given")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        # The list of several hundred known ones would bury the message.
        raise UserError(
            f"model {config.name}: architecture.model_type: given {model_type!r}, which the "
            "installed transformers does not know; copy it from the model's config.json"
        )
    known = {*AutoConfig.for_model(model_type).to_dict(), *_OLD_NAMES}
    for field in fields:
        if field not in known and get_close_matches(field, known, n=1, cutoff=_MISSPELT):
            raise unknown_name(f"field of model {config.name}: architecture", field, known)
    try:
        return AutoConfig.for_model(model_type, **fields)
    except Exception as error:  # of any type, where two values do not go together
        said = " ".join(str(error).split())
        raise UserError(
            f"model {config.name}: architecture: {type(error).__name__}: {said}"
        ) from error


def published_config(config: ModelConfig) -> Any:
    """Read the model's own config.json.

    Raises:
        UserError: when it is missing, or transformers does not know what it describes.
    """
    from transformers import AutoConfig

    folder = model_folder(config, (CONFIG,))
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of any type, where it holds what it should not
        raise UserError(
            f"model {config.name}: {folder / CONFIG} is not a model configuration that the "
            f"installed transformers knows ({first_line(error)})"
        ) from error


def read_tokenizer(folder: Path, name: str) -> Any:
    """Read a tokenizer as it is.

    Args:
        folder: of the model.
        name: what messages call the model.

    Raises:
        UserError: files that are missing or that transformers cannot read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of any type, where a file holds what it should not
        raise UserError(
            f"model {name}: no tokenizer can be read from {folder} "
            f"({first_line(error)}); tokenizer.json and tokenizer_config.json are needed"
        ) from error
