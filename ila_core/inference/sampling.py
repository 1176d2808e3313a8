"""Sampling that depends on the seed and the question alone, not on the rest of the batch.

The token with the highest `logit / T + g`, with Gumbel noise `g`, is a draw from the softmax at
temperature `T` (Gumbel 1954; Maddison et al. 2014, arXiv:1411.0030). So generation stays greedy,
rows of different temperatures share a batch, and each row has a generator of its own instead of
the global one. The noise is drawn on the CPU and is the same on every device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ila_core.keys import digest_of


class RowSampler:
    """Add temperature and Gumbel noise to logits (batch, vocabulary); a logits processor.

    Args:
        temperatures: the temperature of each row; 0 is greedy.
        keys: for each row, a JSON value that seeds its generator.
    """

    def __init__(self, temperatures: Sequence[float], keys: Sequence[object]) -> None:
        self._temperatures = temperatures
        self._generators = [
            torch.Generator().manual_seed(int(digest_of(key)[:15], 16)) for key in keys
        ]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        noisy = scores.to(torch.float32, copy=True)
        for i, temperature in enumerate(self._temperatures):
            if temperature:
                # In float64, where the exponential draw is never 0 and its logarithm is finite.
                drawn = torch.empty(scores.shape[-1], dtype=torch.float64)
                gumbel = -drawn.exponential_(generator=self._generators[i]).log_()
                noisy[i] = noisy[i] / temperature + gumbel.to(noisy)
        return noisy
