"""The result of every benchmark: one number per item, from which all others are computed.

Two models that answer the same items are compared item by item, which gives an interval several
times narrower than a comparison of their means by standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ila_core.config import Frozen


class Item(Frozen):
    """One question, conversation or text."""

    id: str
    group: str = ""
    """Subject or category, if the benchmark has any."""
    value: float
    """The sum over `weight`: 0 or 1 for a choice, nats for a text, a judge's median grade."""
    weight: float = Field(default=1.0, gt=0)
    """Number of tokens of a text; 1 for a question."""
    repeats: tuple[float, ...] = ()
    """A judge's repeated grades of the same answer; `value` is their median."""
    log_likelihoods: tuple[float, ...] = ()
    """The log-likelihood of each choice, in nats."""


class Evaluation(Frozen):
    """One model's result on one benchmark: `evaluation.json` without the model's name."""

    benchmark: str
    unit: str
    better: Literal["higher", "lower"]
    chance: float | None
    """The value of random guessing; `None` when it is unknown."""
    items: tuple[Item, ...]
    """The items, in the benchmark's own order."""
    comparable: dict[str, Any] = {}  # noqa: RUF012  # pydantic copies it
    """Settings that two evaluations must share to be comparable: data, shots, limit, judge."""
    counts: dict[str, int] = {}  # noqa: RUF012
    """Counts beside the value, such as truncated prompts or answers that were not judged."""

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """Read an evaluation from a file."""
        return cls.model_validate_json(path.read_bytes())

    @property
    def value(self) -> float:
        """The weighted mean: MMLU's `acc` weighted by size, the loss per token."""
        return _mean(self.items)

    @property
    def groups(self) -> dict[str, float]:
        """The value of each group, in the order of first appearance."""
        by_group: dict[str, list[Item]] = {}
        for item in self.items:
            by_group.setdefault(item.group, []).append(item)
        return {name: _mean(items) for name, items in by_group.items()}

    @property
    def macro(self) -> float:
        """The unweighted mean over the groups."""
        means = self.groups.values()
        return math.fsum(means) / len(means)


def _mean(items: Sequence[Item]) -> float:
    return math.fsum(x.value for x in items) / math.fsum(x.weight for x in items)
