"""Quantiles of intervals."""

import math


def half_width(confidence: float, df: float = math.inf) -> float:
    """Half the two-sided interval in standard errors: 1.96 at 95 %, 4.30 with two degrees."""
    from scipy import stats

    return float(stats.t.ppf((1 + confidence) / 2, df))
