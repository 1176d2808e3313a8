"""The mask of the loss: which tokens of a row are learned, and which are only read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ila_core.data.batches import IGNORED
from ila_core.data.chat_template import Span

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def labels(ids: list[int], offsets: list[Span], spans: Sequence[Span]) -> list[int]:
    """Return `ids` where a token lies wholly within a span, and `IGNORED` elsewhere.

    A token of no width (a prefix space) on the edge of a span belongs to what is before it.
    """
    import numpy as np

    starts, ends = np.array(offsets, dtype=np.int64).reshape(-1, 2).T
    learned: NDArray[np.bool_] = np.zeros(len(ids), dtype=bool)
    for a, b in spans:
        learned |= (starts >= a) & (ends > a) & (starts < b) & (ends <= b)
    labels: list[int] = np.where(learned, np.array(ids, dtype=np.int64), IGNORED).tolist()
    return labels
