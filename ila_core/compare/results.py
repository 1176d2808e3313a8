"""What every benchmark gives: one number per item, from which all else is computed.

Two models answer the same items, so they are compared item by item; a value without its items
could only be compared with its standard error, which is several times wider.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ila_core.config import Frozen


class Item(Frozen):
    """One question, conversation or text."""

    id: str
    group: str = ""
    """Subject or category, where the benchmark has them."""
    value: float
    """Summed over `weight`: 0 or 1 for an answer, nats for a text, the median grade of a judge."""
    weight: float = Field(default=1.0, gt=0)
    """Tokens of a text; 1 for a question."""
    repeats: tuple[float, ...] = ()
    """A judge's grades of the same answer, of which `value` is the median."""
    log_likelihoods: tuple[float, ...] = ()
    """The log-likelihood of each choice, in nats."""


class Evaluation(Frozen):
    """`evaluation.json`, less who was evaluated."""

    benchmark: str
    unit: str
    better: Literal["higher", "lower"]
    chance: float | None
    """What a model that guesses gets; `None` where nobody can say."""
    items: tuple[Item, ...]
    """The items, in the benchmark's own order."""
    comparable: dict[str, Any] = {}  # noqa: RUF012  # pydantic copies it
    """What two evaluations must have in common to be compared: data, shots, limit, judge."""
    counts: dict[str, int] = {}  # noqa: RUF012
    """What to know beside the value: prompts that were cut, answers that were not judged."""

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """What a file holds."""
        return cls.model_validate_json(path.read_bytes())

    @property
    def value(self) -> float:
        """Mean over all weights: MMLU's `acc` weighted by size, the loss per token."""
        return math.fsum(x.value for x in self.items) / math.fsum(x.weight for x in self.items)

    @property
    def groups(self) -> dict[str, float]:
        """The value of each group, in the order of first appearance."""
        return {name: _mean(items) for name, items in self._grouped()}

    @property
    def macro(self) -> float:
        """Mean over the groups, each counting the same."""
        means = self.groups.values()
        return math.fsum(means) / len(means)

    def _grouped(self) -> Iterator[tuple[str, list[Item]]]:
        by_group: dict[str, list[Item]] = {}
        for item in self.items:
            by_group.setdefault(item.group, []).append(item)
        yield from by_group.items()


def _mean(items: list[Item]) -> float:
    return math.fsum(x.value for x in items) / math.fsum(x.weight for x in items)
