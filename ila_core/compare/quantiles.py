"""Quantiles of intervals, without scipy, which only the tests need."""

from __future__ import annotations

import math
from statistics import NormalDist

_NORMAL_FROM = 1000.0
"""Degrees of freedom from which Student's 99.9 % interval is within 0.4 % of the normal one."""


def half_width(confidence: float, df: float = math.inf) -> float:
    """Half the two-sided interval in standard errors: 1.96 at 95 %, 4.30 with two degrees.

    With t = sqrt(df) tan(x), Student's density is cos(x)^(df - 1) on a finite interval, which is
    summed and inverted on a grid.
    """
    if df >= _NORMAL_FROM:
        return NormalDist().inv_cdf((1 + confidence) / 2)
    import numpy as np

    x = np.linspace(0, math.pi / 2, 40_001)
    density = np.cos(x) ** (df - 1)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(df) * math.tan(float(np.interp(confidence, mass / mass[-1], x)))
