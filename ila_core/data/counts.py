"""What became of the rows of a dataset, counted, and said in sentences."""

from collections.abc import Mapping
from typing import Any

from ila_core.config import Frozen


class Counts(Frozen):
    """What became of the rows of a dataset: those in no split, and what others lost."""

    given: int = 0
    """Rows that were read or could not be."""
    unreadable: int = 0
    dropped: dict[str, int] = {}  # noqa: RUF012  # pydantic copies it
    """Rows that could not be used, by reason."""
    ignored: dict[str, int] = {}  # noqa: RUF012
    """Rows by the name of a field that was not read."""
    split_into_answers: int = 0
    """Conversations of which each answer became a row: the template rewrites earlier turns."""
    truncated: int = 0
    """Rows cut at the maximum length."""
    tokens_cut: int = 0
    """Their tokens beyond it."""
    ends_cut: int = 0
    """Answers that lost their end by it, from which nobody learns to stop."""
    answers: int = 0
    """Answers of all rows, before the cut."""
    duplicates: int = 0
    """Rows that repeat an earlier one exactly; they are in the same split as it."""
    system_merged: int = 0
    """Rows whose system message was put in front of the first user turn."""


def said_of(statistics: Mapping[str, Any]) -> list[str]:
    """What was left out, ignored or cut, a sentence each; nothing where nothing was.

    Args:
        statistics: `prepared.json`.
    """
    found = Counts(**{name: statistics[name] for name in Counts.model_fields})
    lines = []
    if found.unreadable:
        lines.append(f"{found.unreadable:,} of {found.given:,} rows could not be read")
    if found.dropped:
        lines.append("left out: " + ", ".join(f"{n:,} {why}" for why, n in found.dropped.items()))
    if found.ignored:
        lines.append(
            "fields that were ignored: "
            + ", ".join(f"{name} ({n:,} rows)" for name, n in found.ignored.items())
        )
    if found.truncated:
        tokens = found.tokens_cut + sum(of["all"] for of in statistics["tokens"].values())
        lines.append(
            f"{found.truncated:,} rows were cut: {found.tokens_cut / tokens:.1%} of the tokens are "
            f"gone, {found.ends_cut:,} of {found.answers:,} answers lost their end"
        )
    if found.split_into_answers:
        lines.append(
            f"{found.split_into_answers:,} conversations became a row per answer: the chat "
            "template writes earlier turns anew"
        )
    if found.system_merged:
        lines.append(f"{found.system_merged:,} system messages stand in the first user turn")
    if found.duplicates:
        lines.append(f"{found.duplicates:,} rows repeat an earlier one")
    return lines
