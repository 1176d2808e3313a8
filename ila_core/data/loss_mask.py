"""The mask of the loss: which tokens of a row are learned, and which are only read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ila_core.data.template import Span

if TYPE_CHECKING:
    from numpy.typing import NDArray

IGNORED = -100
"""The label of a token that is read but not learned."""


def labels(
    ids: NDArray[np.int32], offsets: Sequence[Span], spans: Sequence[Span]
) -> NDArray[np.int32]:
    """Return `ids` where a token lies wholly within a span, and `IGNORED` elsewhere.

    A token of no width (a prefix space) on the edge of a span belongs to what is before it.

    Args:
        ids: (tokens,).
        offsets: where each token stands in the text, in characters.
        spans: what is learned, in characters.
    """
    starts, ends = np.array(offsets, dtype=np.int64).reshape(-1, 2).T
    learned: NDArray[np.bool_] = np.zeros(len(ids), dtype=bool)
    for a, b in spans:
        learned |= (starts >= a) & (ends > a) & (starts < b) & (ends <= b)
    return np.where(learned, ids, np.int32(IGNORED))


def ends_after(row: NDArray[np.int32], length: int) -> tuple[int, int]:
    """Count the learned stretches of a row's labels, and those that end after `length` tokens."""
    learned = np.append(row != IGNORED, False)
    last = np.flatnonzero(learned[:-1] & ~learned[1:])
    return len(last), int(np.count_nonzero(last >= length))


def learned_tokens(row: Sequence[int] | NDArray[np.int32]) -> int:
    """Count the targets among a row's labels: the first token is never predicted."""
    return int(np.count_nonzero(np.asarray(row)[1:] != IGNORED))
