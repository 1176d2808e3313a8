"""Sampling that depends on the seed and the question alone, not on the rest of the batch.

The token with the highest `logit / T + g`, with Gumbel noise `g`, is a draw from the softmax at
temperature `T` (Gumbel 1954; Maddison et al. 2014, arXiv:1411.0030). So generation stays greedy and
rows of different temperatures share a batch.

The noise of a token is a hash of the row's key, the position and the token, computed where the
logits are: a generator on a GPU draws other numbers on another model of it, and one on the CPU
takes 17 ms for the 128k numbers of a row and token.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ila_core.keys import digest_of

_WORD = 2**32


class RowSampler:
    """Add temperature and Gumbel noise to logits (batch, vocabulary); a logits processor.

    Args:
        temperatures: the temperature of each row; 0 is greedy.
        keys: for each row, a JSON value that decides its noise.
    """

    def __init__(self, temperatures: Sequence[float], keys: Sequence[object]) -> None:
        self._temperatures = temperatures
        self._keys = keys
        self._position = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        noisy = scores.to(torch.float32, copy=True)
        for i, temperature in enumerate(self._temperatures):
            if temperature:
                noise = gumbel([self._keys[i], self._position], noisy.shape[-1], noisy.device)
                noisy[i] = noisy[i] / temperature + noise
        self._position += 1
        return noisy


def gumbel(key: object, count: int, device: torch.device | str) -> Tensor:
    """`count` draws from the standard Gumbel distribution, (count,), by the JSON value `key`."""
    digest = int(digest_of(key), 16)
    words = torch.arange(count, device=device)
    for _ in range(2):
        digest, word = divmod(digest, _WORD)
        words = _mixed(words ^ word)
    # The exponential draw of the least word is the largest Gumbel: 1e-10 is exact as a float32.
    uniform = ((words + 0.5) / _WORD).clamp(max=1 - 2**-24)
    return -(-torch.log1p(-uniform)).log()


def _mixed(words: Tensor) -> Tensor:
    """Mix 32-bit words held as int64, where no product overflows (T. Mueller's integer hash)."""
    for _ in range(2):
        words = ((words ^ (words >> 16)) * 0x45D9F3B) % _WORD
    return words ^ (words >> 16)
