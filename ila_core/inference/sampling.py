"""Sampling that depends on the seed and the question alone, whatever shares its batch.

The token with the highest `logit / T + g`, with Gumbel noise `g`, is a draw from the softmax at
temperature `T` (Gumbel 1954; Maddison et al. 2014, arXiv:1411.0030). So generation stays greedy,
rows at different temperatures share a batch, no global random state is touched, and every row has
a generator of its own. It runs on the CPU: the same noise on every device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ila_core.keys import digest_of


class RowSampler:
    """A logits processor of transformers.

    Args:
        temperatures: of each row; 0 is greedy.
        keys: what each row's draws depend on, as JSON values.
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
