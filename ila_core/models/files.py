"""The files that a base model is: in a local folder, or on the hub."""

from pathlib import Path

from ila_core import hub
from ila_core.config import ModelConfig
from ila_core.errors import UserError
from ila_core.keys import digest_of, file_digest

CONFIG = "config.json"
TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)
# Safetensors only: a pickle can run anything. Some hub models carry a second, consolidated copy.
WEIGHT_FILES = ("model*.safetensors", "model.safetensors.index.json")


def model_files(folder: Path) -> list[Path]:
    """The files that a local model is: configuration, weights and tokenizer, sorted by name.

    Raises:
        UserError: when the folder, its configuration or its weights are missing.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise UserError(f"model folder {folder} does not exist; set the model profile's `source:`")
    patterns = (CONFIG, *WEIGHT_FILES, *TOKENIZER_FILES)
    for needed in (CONFIG, WEIGHT_FILES[0]):
        if not any(folder.glob(needed)):
            raise UserError(f"model folder {folder} has no {needed}")
    found = {path for pattern in patterns for path in folder.glob(pattern)}
    return sorted(path for path in found if path.is_file())


def model_files_digest(folder: Path) -> str:
    """The identity of a local model: names and contents of `model_files`."""
    return digest_of({path.name: file_digest(path) for path in model_files(folder)})


def hub_model_revision(config: ModelConfig) -> str:
    """The hub commit that a hub model is at now."""
    return hub.current_commit(config.source, kind="model")


def model_folder(config: ModelConfig, patterns: tuple[str, ...]) -> Path:
    """The folder that holds the model's files; those of the hub that match are downloaded.

    Raises:
        UserError: as `model_files`, or what `ila_core.hub` says.
    """
    if not config.local:
        return hub.fetch(config.source, patterns, config.revision, kind="model")
    folder = Path(config.source).expanduser()
    model_files(folder)  # says what is missing
    return folder
