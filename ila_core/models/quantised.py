"""Weights that are quantised already are refused: read as plain ones they are other numbers."""

from pathlib import Path
from typing import Any

from ila_core.data.json_files import parsed_json, read_object
from ila_core.errors import UserError

_NARROW = ("F8", "F4", "F6", "E8")
"""How the names of safetensors' 8-bit and narrower floating types begin."""


def refuse_quantised(name: str, folder: Path) -> None:
    """Look into a model's configuration and into the headers of its weights.

    Args:
        name: of the model, for the error.
        folder: its files; those that are not there (yet) are not looked at.

    Raises:
        UserError: the configuration says that they are quantised, or a weight has 8 bits or fewer.
    """
    given = _read(folder / "config.json").get("quantization_config")
    if given:
        method = given.get("quant_method", "unknown method") if isinstance(given, dict) else given
        bits = " in 4 bits" if isinstance(given, dict) and given.get("load_in_4bit") else ""
        raise _refusal(name, folder, f"config.json says that they are: {method}{bits}")
    for file in sorted(folder.glob("model*.safetensors")):
        for tensor, about in _header(file).items():
            if str(about.get("dtype", "")).startswith(_NARROW):
                raise _refusal(name, folder, f"{tensor} in {file.name} has type {about['dtype']}")


def _refusal(name: str, folder: Path, found: str) -> UserError:
    return UserError(
        f"model {name}: the weights in {folder} are quantised ({found}). Stage 1 and every "
        "fine-tuning start from weights in 16 or 32 bits: give the model that this one was made "
        "from; for a base in 4 bits take that with the method qlora, which quantises as it loads"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except (OSError, UserError):
        return {}  # loading says what is wrong with it


def _header(file: Path) -> dict[str, Any]:
    """The table at the beginning of a safetensors file: 8 bytes of length, then JSON."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if not 0 < length <= file.stat().st_size:
            return {}  # loading says that it is damaged
        try:
            found = parsed_json(opened.read(length), file)
        except UserError:
            return {}
    return (
        {k: v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}
    )
