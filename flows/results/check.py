"""One line of `ila doctor`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """The result of one check of `ila doctor`."""

    name: str
    state: str
    """`ok`, `missing` (only some commands need it) or `failed`."""
    found: str
    advice: str = ""
