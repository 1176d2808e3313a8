"""Small JSON files of a payload."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel


def write_json(path: Path, value: BaseModel | dict[str, Any] | list[Any]) -> None:
    """`value` as indented JSON with sorted keys, so that equal results are equal files."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    path.write_text(json.dumps(plain, indent=1, sort_keys=True) + "\n", encoding="ascii")


def read_json(path: Path) -> Any:
    """The value of one JSON file."""
    return json.loads(path.read_bytes())
