"""Spectrum's signal-to-noise ratio: the base weights' singular values, no data and no adapter.

Hartford et al., "Spectrum: Targeted Training on Signal to Noise Ratio", 2024; as its tool
(QuixiAI/spectrum) computes it. Spectrum trains the layers of *high* ratio.

Measured, and to be kept in mind when it is compared: Gaussian noise of 64 x 128 has 2.7, with a
signal of rank 8 and ten times the noise's own size added 0.65. The interquartile range of singular
values is not the noise's standard deviation (most of pure noise counts as signal), and dividing by
the largest one punishes signal and makes the number depend on the weights' scale.
"""

from __future__ import annotations

import math
from statistics import fmean
from typing import TYPE_CHECKING

from ila_core.search.scoring import Material, Needs, ScoreResult, base_weights

if TYPE_CHECKING:
    from torch import Tensor


class WeightSnr:
    needs: Needs = "weights"
    version = 1

    def score(self, material: Material) -> ScoreResult:
        """Signal-to-noise ratio of each base weight; high is important, as Spectrum takes it.

        Of experts, the mean of theirs.
        """
        scores = {
            layer.name: fmean(map(signal_to_noise, base_weights(material.model, layer)))
            for layer in material.layers
        }
        return ScoreResult(scores=scores, cost_tokens=0)


def signal_to_noise(weight: Tensor) -> float:
    """Sum of singular values above the threshold over the sum of those below, over the largest.

    The threshold is Marchenko and Pastur's edge sigma (1 + sqrt(n / m)), n <= m, with sigma the
    interquartile range of the singular values over 1.349 (that of a standard normal). With none
    below it, their sum counts as 1; 0 for a matrix of zeros.

    Args:
        weight: (out_features, in_features).
    """
    import torch

    values = torch.linalg.svdvals(weight)
    largest = float(values[0])
    if largest == 0:
        return 0.0
    n, m = sorted(weight.shape)
    low, high = torch.quantile(values, values.new_tensor([0.25, 0.75])).tolist()
    edge = (high - low) / 1.349 * (1 + math.sqrt(n / m))
    signal, noise = (float(values[part].sum()) for part in (values > edge, values <= edge))
    return signal / (noise or 1.0) / largest
