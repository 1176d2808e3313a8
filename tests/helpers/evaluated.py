"""Evaluations made up for the tests of comparing and deciding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ila_core.compare.results import Evaluation, Item


def accuracy(right: Sequence[float], **fields: Any) -> Evaluation:
    items = tuple(Item(id=str(i), value=float(x)) for i, x in enumerate(right))
    given = {"benchmark": "mmlu", "unit": "accuracy", "better": "higher", "chance": 0.25}
    return Evaluation(items=items, **given | fields)


def losses(
    nll: Sequence[float], weights: Sequence[float] | None = None, **fields: Any
) -> Evaluation:
    """Held-out loss: summed nats, and tokens (10 each)."""
    tokens = [10.0] * len(nll) if weights is None else weights
    items = tuple(
        Item(id=str(i), value=float(x), weight=float(w))
        for i, (x, w) in enumerate(zip(nll, tokens, strict=True))
    )
    given = {"benchmark": "held_out_loss", "unit": "nats per token", "better": "lower"}
    return Evaluation(items=items, **given | {"chance": None} | fields)


def grades(given: dict[str, tuple[float, ...]], **fields: Any) -> Evaluation:
    """MT-Bench: the grades of each answer by its id."""
    items = tuple(Item(id=i, value=sorted(x)[len(x) // 2], repeats=x) for i, x in given.items())
    said = {"benchmark": "mt_bench", "unit": "grade", "better": "higher", "chance": None}
    return Evaluation(items=items, **said | fields)
