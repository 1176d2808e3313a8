"""Epsilon-stability (Definition 1), measured on windows of the training loss.

The definition asks for the expected loss to change by less than epsilon from one step to the next.
A batch loss is too noisy for that, so its mean over W steps stands for the expectation.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

from ila_core.config import StabilitySettings


def is_stable(losses: Sequence[float], settings: StabilitySettings, planned_steps: int) -> bool:
    """Whether training is stable after step `len(losses)`, which ends a window or the training.

    Args:
        losses: mean token loss of every step so far.
        settings: epsilon, window, patience and floor.
        planned_steps: of the whole schedule, which the floor is a fraction of.
    """
    step, window = len(losses), settings.window
    if step < settings.floor * planned_steps:
        return False
    if step % window and step != ceiling_steps(settings, planned_steps):
        return False
    if step < window * (settings.patience + 1):
        return False
    starts = range(step - window * (settings.patience + 1), step, window)
    means = [fmean(losses[start : start + window]) for start in starts]
    return all(abs(after - before) < settings.epsilon for before, after in pairwise(means))


def ceiling_steps(settings: StabilitySettings, planned_steps: int) -> int:
    """Return the step at which training stops, stable or not."""
    return min(planned_steps, max(1, math.ceil(settings.ceiling * planned_steps)))
