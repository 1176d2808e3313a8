"""YAML to `Profile`: names or paths, `${VAR:-default}`, dotted overrides, errors naming the field.

>>> load_profile("demo", ["finetune.lora.lr=2.0e-3"]).finetune.lora.lr
0.002
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_origin

from pydantic import BaseModel, ValidationError

from ila_core.config import ModelConfig, Profile
from ila_core.config.base import plain_name
from ila_core.config.resolved import models_in
from ila_core.config.yaml_text import read_yaml
from ila_core.errors import UserError, unknown_name
from ila_core.hub import HUB_ID

M = TypeVar("M", bound=BaseModel)

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Z_]+)(?::-(?P<default>[^}]*))?\}")


def shipped(kind: str) -> dict[str, Path]:
    """What comes with ILA: `kind` is `runs`, `models` or `rules`; name to file."""
    folder = Path(str(resources.files("profiles"))) / kind
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


@dataclass(frozen=True)
class OneLine:
    """A profile that is given by its base model and its datasets alone."""

    model: str
    """A name that ILA knows, a hub id, a folder or a `.yaml` file."""
    data: tuple[str, ...]
    """The datasets, each as `DatasetConfig` takes it in short."""


Given = str | OneLine
"""What says which profile is meant: its name, its file, or a model and datasets."""


def load_profile(given: Given, overrides: Sequence[str] = ()) -> Profile:
    """The run profile that is meant.

    Args:
        given: `demo`, `path/to/mine.yaml`, or a model and datasets.
        overrides: `a.b=c` each, `c` read as YAML; list items by number (`finetune.arms.0.seed=3`).

    Raises:
        UserError: an unknown name, an unreadable file, a field unknown or with a wrong value.
    """
    tree, path = written(given, overrides)
    tree.setdefault(
        "name", "given" if isinstance(given, OneLine) else plain_name(path.stem, "profile")
    )
    if isinstance(tree.get("model"), str):
        model = load_model_config(tree["model"], path.parent)
        tree["model"] = model.model_dump(exclude_unset=True)
    profile = _validate(Profile, tree, path)
    if isinstance(given, OneLine):
        names = "-".join([profile.model.name, *(d.name for d in profile.datasets)])
        profile = profile.model_copy(update={"name": plain_name(names, "given")})
    return profile


def written(given: Given, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], Path]:
    """The fields of a profile that somebody has written, overrides among them; and in which file.

    Raises:
        UserError: as `load_profile`, for what can be seen without the meaning of the fields.
    """
    if isinstance(given, OneLine):
        path = Path("command line")
        tree: dict[str, Any] = {"model": given.model, "datasets": [*given.data]}
    else:
        path = _find("profile", "runs", given, Path.cwd())
        tree = _read_mapping(path)
    chosen = [o for o in overrides if o.partition("=")[0].strip() == "model"]
    for override in chosen:
        tree["model"] = override.partition("=")[2].strip()
    rest = [o for o in overrides if o not in chosen]
    if isinstance(tree.get("model"), str) and any(o.strip().startswith("model.") for o in rest):
        model = load_model_config(tree["model"], path.parent)
        tree["model"] = model.model_dump(exclude_unset=True)
    for override in rest:
        _apply(tree, override, path)
    return tree, path


def load_model_config(given: str, beside: Path | None = None) -> ModelConfig:
    """The base model that is meant.

    Args:
        given: a name that ILA knows, a hub id, a folder, or a `.yaml` file (relative to here or to
            `beside`).

    Raises:
        UserError: none of these, or a name and a model's folder at once.
    """
    known = shipped("models")
    folder = Path(given).expanduser()
    if given in known and (folder / "config.json").is_file():
        raise UserError(
            f"model {given!r} is a model that ILA knows and a folder here: write ./{given} for the "
            f"folder, or {known[given]} for the other"
        )
    if given in known or given.endswith((".yaml", ".yml")):
        return load_named(ModelConfig, "model", given, beside)[0]
    if folder.is_dir() or given.startswith((".", "/", "~")) or HUB_ID.fullmatch(given):
        return _validate(ModelConfig, {"source": given}, Path("command line"))
    known_ones = unknown_name("model", given, known)
    raise UserError(f"{known_ones}; or give a hub id (org/name) or a folder")


def load_named(model: type[M], what: str, given: str, beside: Path | None = None) -> tuple[M, Path]:
    """The shipped `what` called `given`, or that in a `.yaml` file; and where it was found."""
    path = _find(what, f"{what}s", given, beside or Path.cwd())
    tree = _read_mapping(path)
    tree.setdefault("name", plain_name(path.stem, what))
    return _validate(model, tree, path), path


def _find(what: str, kind: str, given: str, beside: Path) -> Path:
    if given.endswith((".yaml", ".yml")):
        candidates = [Path(given).expanduser(), beside / Path(given).expanduser()]
        for path in candidates:
            if path.is_file():
                return path
        raise UserError(
            f"{what} file {given} does not exist (looked in {candidates[0].absolute()})"
        )
    known = shipped(kind)
    if given not in known:
        raise unknown_name(what, given, known)
    return known[given]


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        tree = read_yaml(path.read_text(encoding="utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not readable as YAML: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path}: this must be a mapping of fields and is a {type(tree).__name__}")
    return {k: _expand(v) for k, v in tree.items()}


def _expand(value: Any) -> Any:
    """Replace `${VAR:-default}` in every string; `${ILA_PACKAGE}` is the folder of `ila_core`."""
    if isinstance(value, dict):
        return {k: _expand(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand(v) for v in value]
    if isinstance(value, str):
        return _VARIABLE.sub(_variable, value)
    return value


def _variable(match: re.Match[str]) -> str:
    name, default = match["name"], match["default"]
    if name == "ILA_PACKAGE":
        return str(Path(__file__).parents[1])
    found = os.environ.get(name, default)
    if found is None:
        raise UserError(f"the profile needs the environment variable {name}, which is not set")
    return found


def _apply(tree: dict[str, Any], override: str, path: Path) -> None:
    dotted, sign, text = override.partition("=")
    parts = dotted.strip().split(".")
    if not sign or not all(parts):
        raise UserError(f"override {override!r}: write field.subfield=value")
    value = read_yaml(text, f"override {override!r}")
    node: Any = tree
    for depth, part in enumerate(parts[:-1]):
        if isinstance(node, dict) and part not in node:
            _open_block(node, parts[: depth + 1], override)
        node = _descend(node, part, ".".join(parts[: depth + 1]), override, path)
    if isinstance(node, list):
        _descend(node, parts[-1], dotted, override, path)  # the item must exist
        node[int(parts[-1])] = value
    elif isinstance(node, dict):
        node[parts[-1]] = value  # an unknown last part is reported by validation, with its siblings
    else:
        raise UserError(f"override {override!r}: {'.'.join(parts[:-1])} is a value, not a block")


def _open_block(node: dict[str, Any], parts: list[str], override: str) -> None:
    """Begin a block that the file leaves to its defaults, so that a field of it can be set."""
    *above, part = parts
    field = _block_at(Profile, above).model_fields.get(part)
    if field is not None and get_origin(field.annotation) is tuple:
        raise UserError(
            f"override {override!r}: {'.'.join(parts)} is left to its default; give the whole list"
        )
    *beyond, holder = above or [""]
    held = _block_at(Profile, beyond).model_fields.get(holder)
    if field is not None or (held is not None and get_origin(held.annotation) is dict):
        node[part] = {}


def _descend(node: Any, part: str, dotted: str, override: str, path: Path) -> Any:
    if isinstance(node, list):
        if not part.isdigit() or int(part) >= len(node):
            raise UserError(
                f"override {override!r}: {dotted} does not exist; "
                f"the list has items 0 to {len(node) - 1}"
            )
        return node[int(part)]
    if not isinstance(node, dict) or part not in node:
        known = node if isinstance(node, dict) else {}
        raise UserError(
            f"override {override!r}: {unknown_name('field', dotted, _beside(dotted, known))}"
        )
    return node[part]


def _beside(dotted: str, siblings: Any) -> list[str]:
    parent, dot, _ = dotted.rpartition(".")
    return [f"{parent}{dot}{name}" for name in siblings]


def _validate(model: type[M], tree: dict[str, Any], path: Path) -> M:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(model, dict(detail)) for detail in error.errors()]
        raise UserError("\n".join(f"{path}: {line}" for line in lines)) from error


def _explain(model: type[BaseModel], detail: dict[str, Any]) -> str:
    dotted = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        fields = _beside(dotted, _fields_at(model, detail["loc"][:-1]))
        return str(unknown_name("field", dotted, fields))
    if detail["type"] == "missing":
        return f"{dotted}: required, and not given"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "string_pattern_mismatch":
        message = "allowed are letters, digits, `_`, `.` and `-`, first a letter or a digit"
    if detail["type"] == "string_type" and isinstance(detail["input"], int | float):
        message = "this must be a text: put it in quotes"
    if detail["type"] == "value_error":
        # A check of a whole block names the field itself.
        of_block = message.partition(":")[0] in _fields_at(model, detail["loc"])
        return f"{dotted}{'.' if of_block else ': '}{message}" if dotted else message
    return f"{dotted}: {message} (given {detail['input']!r})"


def _fields_at(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """The field names of the block at `location`."""
    return list(_block_at(model, location).model_fields)


def _block_at(model: type[BaseModel], location: Sequence[str | int]) -> type[BaseModel]:
    """The block at `location`, found by walking the annotations; the last one above, if none is."""
    current = model
    for part in location:
        if part in current.model_fields:
            inner = models_in(current.model_fields[str(part)].annotation)
            current = inner[0] if inner else _NoFields
    return current


class _NoFields(BaseModel):
    """Stands for a value that is no block."""
