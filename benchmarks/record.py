"""What every result of a benchmark carries: the machine it was measured on, and its tolerance.

    recorded({"ratio": 0.95, "ms": 12.0}, {"ms": (0.5, 0.0), "*": (0.05, 0.0)})

A tolerance says for each number, by its dotted path or a pattern of it, which change means nothing,
relative and absolute (either is enough); the first pattern that fits counts. By it
`python benchmarks/moved.py OLD NEW` compares.
"""

from __future__ import annotations

import os
import platform
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

Tolerance = dict[str, tuple[float, float]]
NOT_RECORDED = "not recorded"
"""The machine of a result that was measured before this file was, or a part of it."""


def recorded(result: dict[str, Any], tolerance: Tolerance) -> dict[str, Any]:
    """The result with its machine and tolerance in front."""
    return {"machine": machine(), "tolerance": tolerance, **result}


def machine() -> dict[str, Any]:
    """This one, as far as it moves a measurement; nothing says whose it is."""
    import torch

    found = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch": version("torch"),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
    }
    if torch.cuda.is_available():
        found["device"] = torch.cuda.get_device_name()
    return found


def tolerance_of(path: str, tolerance: Tolerance) -> tuple[float, float]:
    """The relative and the absolute change of the number at `path` that mean nothing.

    Raises:
        KeyError: no pattern fits.
    """
    for pattern, allowed in tolerance.items():
        if fnmatchcase(path, pattern):
            return allowed
    raise KeyError(f"no tolerance is given for {path}")


def numbers(value: Any, path: str = "") -> dict[str, float]:
    """All numbers of a result by their dotted paths, but for its machine and tolerance."""
    if isinstance(value, dict):
        inner = {k: v for k, v in value.items() if path or k not in ("machine", "tolerance")}
    elif isinstance(value, list):
        inner = dict(enumerate(value))
    else:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return {path: value} if is_number else {}
    found: dict[str, float] = {}
    for name, one in inner.items():
        found |= numbers(one, f"{path}.{name}" if path else str(name))
    return found


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
