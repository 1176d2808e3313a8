"""One line of `ila doctor`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """What was examined and found."""

    name: str
    state: str
    """ok, missing (not needed for everything) or failed."""
    found: str
    advice: str = ""
