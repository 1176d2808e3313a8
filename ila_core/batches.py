"""Rows into optimizer steps, and steps into micro-batches.

Which conversations a step holds depends on their number, the batch size and the seed alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ila_core.config import Schedule
from ila_core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100
"""The label of a token that is read but not learned."""


class Row(Protocol):
    """One conversation as tokens."""

    @property
    def input_ids(self) -> list[int]: ...

    @property
    def labels(self) -> list[int]:
        """Same length; -100 where there is no loss."""
        ...


def loss_tokens(row: Row) -> int:
    """Number of targets: the first token is never predicted."""
    return sum(label != IGNORED for label in row.labels[1:])


def collate(rows: Sequence[Row]) -> dict[str, Tensor]:
    """Pad on the right. Without padding there is no mask, so that attention takes its fast path."""
    import torch

    longest = max(len(row.input_ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), IGNORED)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        n = len(row.input_ids)
        ids[i, :n] = torch.tensor(row.input_ids)
        labels[i, :n] = torch.tensor(row.labels)
        mask[i, :n] = 1
    batch = {"input_ids": ids, "labels": labels}
    return batch if bool(mask.all()) else {**batch, "attention_mask": mask}


def planned_steps(schedule: Schedule, n_rows: int, batch_size: int) -> int:
    """Optimizer steps of the whole schedule. The last step of an epoch runs into the next one."""
    if schedule.steps is not None:
        return schedule.steps
    assert schedule.epochs is not None
    return max(1, math.ceil(schedule.epochs * n_rows / batch_size))


def plan_batches(n_rows: int, batch_size: int, steps: int, seed: int) -> list[list[int]]:
    """Row numbers of every step: epoch after epoch, each shuffled anew, cut into full batches."""
    rng = random.Random(seed)
    stream: list[int] = []
    while len(stream) < steps * batch_size:
        stream += rng.sample(range(n_rows), n_rows)
    return [stream[i * batch_size : (i + 1) * batch_size] for i in range(steps)]


class MicroBatches:
    """Micro-batches in order, `per_step` of them per step, collated when asked for."""

    def __init__(self, rows: Sequence[Row], batches: list[list[int]], per_step: int) -> None:
        self._rows, self._batches, self._per_step = rows, batches, per_step

    def __len__(self) -> int:
        return len(self._batches) * self._per_step

    def __getitem__(self, index: int) -> dict[str, Any]:
        step, part = divmod(index, self._per_step)
        rows = [self._rows[i] for i in self._batches[step]]
        # Similar lengths together, the longest first: least padding, and memory runs out at once.
        rows.sort(key=lambda row: -len(row.input_ids))
        cuts = [len(rows) * i // self._per_step for i in range(self._per_step + 1)]
        total = sum(map(loss_tokens, rows))
        return {**collate(rows[cuts[part] : cuts[part + 1]]), "step_tokens": total}


def check_rows(rows: Sequence[Row], batch_size: int) -> None:
    if len(rows) < batch_size:
        raise UserError(
            f"{len(rows)} rows are fewer than one batch of {batch_size} conversations; "
            "give more rows or a smaller batch_size"
        )
    empty = [i for i, row in enumerate(rows) if loss_tokens(row) == 0]
    if empty:
        raise UserError(f"row {empty[0]} and {len(empty) - 1} others have no token in the loss")
