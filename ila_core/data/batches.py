"""Rows into optimizer steps, and steps into micro-batches.

Which conversations a step holds depends on their number, the batch size and the seed alone.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

from ila_core.config import Schedule
from ila_core.data.loss_mask import IGNORED, learned_tokens
from ila_core.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Tokens = Sequence[int] | NDArray[np.int32]


class Row(Protocol):
    """One conversation as tokens."""

    @property
    def input_ids(self) -> Tokens: ...

    @property
    def labels(self) -> Tokens:
        """Same length; -100 where there is no loss."""


def loss_tokens(row: Row) -> int:
    """Count the targets of a row."""
    return learned_tokens(row.labels)


def collate(packed: Sequence[Sequence[Row]]) -> dict[str, Tensor]:
    """Make one batch row per sequence of conversations, padded on the right.

    Returns:
        `input_ids` and `labels` (rows, longest), and `position_ids` where a row holds several
        conversations: they start anew with each, by which transformers keeps these apart. Never a
        mask: nothing looks ahead in a causal model, so nothing sees the padding, and attention
        without a mask takes its fast path. (A mask of ones even lets conversations mix.)
    """
    import torch

    longest = max(sum(len(part.input_ids) for part in parts) for parts in packed)
    ids = torch.zeros(len(packed), longest, dtype=torch.long)
    labels = torch.full((len(packed), longest), IGNORED)
    positions = torch.arange(longest).repeat(len(packed), 1)
    for i, parts in enumerate(packed):
        start = 0
        for part in parts:
            end = start + len(part.input_ids)
            ids[i, start:end] = torch.tensor(part.input_ids)
            # The first token of a conversation is not predicted, least of all from its neighbour.
            labels[i, start + 1 : end] = torch.tensor(part.labels[1:])
            positions[i, start:] -= positions[i, start].item()
            start = end
    batch = {"input_ids": ids, "labels": labels}
    several = any(len(parts) > 1 for parts in packed)
    return {**batch, "position_ids": positions} if several else batch


def pack(rows: Sequence[Row]) -> list[list[Row]]:
    """Put conversations together, none longer than the longest: best-fit decreasing.

    Each goes where it leaves the least room. The fullest stay in the order of their longest.
    """
    ordered = sorted(rows, key=lambda row: -len(row.input_ids))
    packed: list[list[Row]] = []
    room: list[int] = []
    for row in ordered:
        n = len(row.input_ids)
        fitting = [i for i, left in enumerate(room) if left >= n]
        if fitting:
            best = min(fitting, key=room.__getitem__)
            packed[best].append(row)
            room[best] -= n
        else:
            packed.append([row])
            room.append(len(ordered[0].input_ids) - n)
    return packed


def planned_steps(schedule: Schedule, n_rows: int, batch_size: int) -> int:
    """Count the optimizer steps of the schedule. An epoch's last step runs into the next one."""
    if schedule.steps is not None:
        return schedule.steps
    assert schedule.epochs is not None, "a schedule that nobody has completed (flows.plan)"
    return max(1, math.ceil(schedule.epochs * n_rows / batch_size))


def plan_batches(n_rows: int, batch_size: int, steps: int, seed: int) -> list[list[int]]:
    """Return the row numbers of every step: epochs, each shuffled anew, cut into full batches."""
    rng = random.Random(seed)
    stream: list[int] = []
    while len(stream) < steps * batch_size:
        stream += rng.sample(range(n_rows), n_rows)
    return [stream[i * batch_size : (i + 1) * batch_size] for i in range(steps)]


def micro_batches(rows: Sequence[Row], micro_batch: int) -> list[list[list[Row]]]:
    """Pack conversations into micro-batches of about equal size.

    Each has at most `micro_batch` rows as long as the longest conversation: no more tokens than
    that many conversations can have unpacked.
    """
    packed = pack(rows)
    # Rows of one conversation apart from those of several, whose attention needs a mask (on a
    # CPU at 160 tokens it took 1.07 times as long with one); then the longest: least padding.
    packed.sort(key=lambda parts: (len(parts) > 1, -sum(len(p.input_ids) for p in parts)))
    count = math.ceil(len(packed) / micro_batch)
    cuts = [len(packed) * i // count for i in range(count + 1)]
    return [packed[a:b] for a, b in pairwise(cuts)]


def packed_batches(rows: Sequence[Row], micro_batch: int) -> list[dict[str, Tensor]]:
    """Pack as `micro_batches` does, and collate."""
    return [collate(packed) for packed in micro_batches(rows, micro_batch)]


class MicroBatches:
    """The micro-batches of every step, packed and collated when asked for."""

    def __init__(self, rows: Sequence[Row], batches: list[list[int]], micro_batch: int) -> None:
        self._rows, self._batches, self._micro_batch = rows, batches, micro_batch

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, step: int) -> dict[str, Any]:
        """`micro_batches`, and the number of targets in them all, `step_tokens`."""
        rows = self._of(step)
        return {
            "micro_batches": packed_batches(rows, self._micro_batch),
            "step_tokens": sum(map(loss_tokens, rows)),
        }

    def largest(self, start: int) -> int:
        """Return the step, from `start` on, whose largest micro-batch is the largest of all.

        By its tokens, padding included, and among equals one with packed rows (with a mask).
        """

        def size(step: int) -> tuple[int, bool]:
            return max(
                (
                    len(packed) * max(sum(len(part.input_ids) for part in row) for row in packed),
                    any(len(row) > 1 for row in packed),
                )
                for packed in micro_batches(self._of(step), self._micro_batch)
            )

        return max(range(start, len(self)), key=size)

    def _of(self, step: int) -> list[Row]:
        return [self._rows[i] for i in self._batches[step]]


def rows_digest(rows: Sequence[Row]) -> str:
    """Digest all tokens and labels, in order."""
    import numpy as np

    digest = hashlib.sha256()
    for row in rows:
        for numbers in (row.input_ids, row.labels):
            digest.update(len(numbers).to_bytes(8, "little"))
            digest.update(np.asarray(numbers, dtype="<i8").tobytes())
    return digest.hexdigest()


def check_rows(rows: Sequence[Row], batch_size: int) -> None:
    if len(rows) < batch_size:
        raise UserError(
            f"{len(rows)} rows are fewer than one batch of {batch_size} conversations; "
            "give more rows or a smaller batch_size"
        )
    empty = [i for i, row in enumerate(rows) if loss_tokens(row) == 0]
    if empty:
        raise UserError(f"row {empty[0]} and {len(empty) - 1} others have no token in the loss")
