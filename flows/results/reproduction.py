"""A reproduced table or figure of the paper."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ila_core.report.figures import Drawing


class Result(NamedTuple):
    """One reproduced table or figure, with the paper's numbers beside ours."""

    title: str
    tables: dict[str, list[dict[str, object]]]
    """Tables by name; the main table's name is empty."""
    drawings: list[Drawing]
    notes: list[str]
