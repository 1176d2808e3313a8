"""One line of `ila doctor`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """What was examined and found."""

    name: str
    state: str
    """ok, missing (not needed for everything) or failed."""
    found: str
    advice: str = ""
