"""Canonical JSON to a key: the same value gives the same key in every process and on every machine.

>>> key_of({"b": 1, "a": (2, 3)}) == key_of({"a": [2, 3], "b": 1})
True
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from pydantic import BaseModel

KEY_LENGTH = 12


def canonical(value: Any) -> str:
    """`value` as JSON with sorted keys and no spaces.

    Raises:
        TypeError: for anything without one canonical form (a set, a NaN, a path, a number as key).
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest_of(value: Any) -> str:
    """SHA-256 of the canonical JSON, 64 hexadecimal digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def key_of(value: Any) -> str:
    """The first 12 digits of `digest_of`: what a step is called by."""
    return digest_of(value)[:KEY_LENGTH]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):  # every field, written or default: a changed default counts
        return _plain(value.model_dump())
    if isinstance(value, dict):
        for k in value:
            if not isinstance(k, str):
                raise TypeError(f"no canonical form for the dictionary key {k!r}: use strings")
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"no canonical form for {value!r}")
        return int(value) if value.is_integer() else value  # YAML `1` and `1.0` mean the same
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(f"no canonical form for {value!r} of type {type(value).__name__}")
