"""Positive control: layers whose update is noise must come out at the bottom.

Users can run it on their own model: a search that fails it is broken, whatever its ranking says.

Measured on a model of 15 layers, 4 of them corrupted, mean AUC over 12 seeds: 100 gate steps 0.998,
gate gradient 0.90, integrated gradients 0.84, leave one out 0.75, size 0.49, empirical Fisher 0.44,
adapter norm 0.22. Gradients at gates that share one gamma are taken through the noise of the other
corrupted layers (with one corrupted they reach 1.00, with six of 15 only 0.81 and less); gate
learning closes those first and then sees what the rest is worth.

    corrupted = plant_noise(model, seed=0)  # then score `model` with any scorer
    auc(scores, corrupted)  # 1.0: every corrupted layer below every other one
"""

import random
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch

from ila_core.config import Frozen
from ila_core.errors import CheckError, listed
from ila_core.search.ranking import kept_count
from ila_core.train.methods.lora import lora_layers

FRACTION = 0.25
FACTOR = 3.0


class ControlResult(Frozen):
    """AUC of one scorer over several seeds of corruption."""

    aucs: dict[str, float]
    """AUC of each seed. 1: all corrupted layers lie below all others; 0.5: chance."""
    mean: float
    low: float | None
    high: float | None
    """Percentile bootstrap over seeds, too narrow below some ten of them; `None` for one seed.
    Where all seeds agree it has no width, which says nothing about the next seed."""
    imperfect_at_most: float | None
    """Where every seed has AUC 1: the largest probability of a seed with less that this many
    perfect ones leave possible at the confidence asked for (5 seeds, 0.95: 0.45). Else `None`."""


def plant_noise(
    model: Any, *, seed: int, fraction: float = FRACTION, factor: float = FACTOR
) -> tuple[str, ...]:
    """Overwrite B of a random part of the adapted layers, in place; A stays as it is.

    B_i becomes N(0, (factor * std(B_i))^2), drawn by seed and layer name on the CPU, so that a
    layer gets the same noise on every device.

    Returns:
        Names of the corrupted layers, in layer order.

    Raises:
        CheckError: B = 0 in a drawn layer (an untrained adapter), whose noise would be 0 as well.
    """
    layers = lora_layers(model)
    count = max(1, kept_count(fraction, len(layers)))
    drawn = set(random.Random(f"{seed}/control").sample(sorted(layers), count))
    chosen = {name: layer for name, layer in layers.items() if name in drawn}
    untrained = [name for name, x in chosen.items() if not x.lora_B["default"].weight.any()]
    if untrained:
        raise CheckError(f"B = 0 in {listed(untrained)}: run stage 1 before its positive control")
    for name, layer in chosen.items():
        weight = layer.lora_B["default"].weight
        generator = torch.Generator().manual_seed(random.Random(f"{seed}/{name}").getrandbits(63))
        noise = torch.randn(weight.shape, generator=generator)
        weight.data.copy_(noise * (factor * float(weight.detach().float().std())))
    return tuple(chosen)


def auc(scores: Mapping[str, float], corrupted: Collection[str]) -> float:
    """Return the probability that a corrupted layer scores below another; a tie counts one half.

    From Mann and Whitney's U, so ties are exact.
    """
    from scipy import stats

    bad = [scores[name] for name in corrupted]
    good = [score for name, score in scores.items() if name not in corrupted]
    assert bad and good, "some layers are corrupted and others are not"
    above = stats.mannwhitneyu(bad, good, method="asymptotic").statistic
    return float(1 - above / (len(bad) * len(good)))


def control_result(
    aucs: Mapping[int, float], *, confidence: float, resamples: int, seed: int
) -> ControlResult:
    """Average the AUC over corruption seeds, with what its interval can and cannot say."""
    values = list(aucs.values())
    low = high = None
    if len(values) > 1:
        means = _resampled_means(values, resamples, seed)
        tail = (1 - confidence) / 2
        low, high = map(float, np.quantile(means, (tail, 1 - tail)))
    perfect = all(value == 1 for value in values)
    return ControlResult(
        aucs={str(s): value for s, value in aucs.items()},
        mean=fmean(values),
        low=low,
        high=high,
        imperfect_at_most=1 - (1 - confidence) ** (1 / len(values)) if perfect else None,
    )


def _resampled_means(values: Sequence[float], resamples: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(values), size=(resamples, len(values)))
    return np.array(values)[drawn].mean(axis=1)
