"""Ranks with ties, which rank correlation and the area under the ROC curve both rest on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def average_ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """Rank of each value, ascending from 1; equal values share the mean of their ranks."""
    import numpy as np

    _, places, counts = np.unique(np.array(values), return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks
