"""Small JSON files of a payload, and the line between a result and what it cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tasks.cache.step import Context

MEASURED = {"seconds", "peak_memory_bytes", "peak_allocated_bytes"}
"""Fields that differ from run to run: measurements, so that equal results are equal files."""


def write_result(path: Path, result: BaseModel, context: Context, **more: Any) -> None:
    """`result` and `more` as JSON, less what was measured, which goes to the measurements."""
    context.measurements.update(result.model_dump(mode="json", include=MEASURED))
    write_json(path, result.model_dump(mode="json", exclude=MEASURED) | more)


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON with sorted keys."""
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="ascii")


def read_json(path: Path) -> Any:
    """The value of one JSON file."""
    return json.loads(path.read_bytes())
