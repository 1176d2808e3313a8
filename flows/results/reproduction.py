"""A table or figure of the paper, ours beside the paper's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ila_core.report.figures import Drawing


class Result(NamedTuple):
    """One table or figure of the paper."""

    title: str
    tables: dict[str, list[dict[str, Any]]]
    """Rows of ours and the paper's, by what they show; the main table has no name."""
    drawings: list[Drawing]
    notes: list[str]
