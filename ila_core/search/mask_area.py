"""One number for a mask curve: the area between it and its random control."""

from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ila_core.config import Frozen
from ila_core.search.masked_loss import MaskedLoss

Floats = NDArray[np.float64]

Control = Literal["random", "random within types"]


class AreaBetween(Frozen):
    """Mean loss of the random orders minus the order's loss, averaged over the closed fraction.

    The area between the curves divided by its width, so in nats whatever the width. Positive means
    that the order is better, its loss rises later.
    """

    scorer: str
    control: Control
    up_to: float
    """Closed fraction at which the area ends."""
    height: float
    low: float
    high: float
    """Percentile interval over random orders and held-out conversations resampled together. It
    does not hold what another stage 1 would change: several search seeds show that."""
    beaten: int
    """Random orders with a higher loss, that is a smaller area of their own. The interval is about
    their mean; a single lucky draw may still be better."""
    n_random: int


def area_between(
    masked: MaskedLoss,
    fractions: Sequence[float],
    order_sets: Sequence[Collection[str]],
    random_sets: Sequence[Sequence[Collection[str]]],
    *,
    scorer: str,
    control: Control,
    up_to: float,
    seed: int,
    resamples: int,
    confidence: float,
) -> AreaBetween:
    """Measure the area between an order's curve and the mean random one; a bootstrap interval.

    Args:
        masked: losses by closed set, conversation by conversation.
        fractions: the axis, ascending, shared by all curves.
        order_sets: what the order closes at each fraction.
        random_sets: the same for each random order.
    """
    weights = trapezoid_weights(fractions, up_to) / up_to

    def under(sets: Sequence[Collection[str]]) -> Floats:
        """Return the mean height of each conversation's curve of summed loss, (conversations,)."""
        nll = np.array([masked.by_conversation(closed) for closed in sets], dtype=np.float64)
        return np.tensordot(weights, nll, axes=1)

    gaps = np.array([under(sets) for sets in random_sets]) - under(order_sets)
    tokens = np.array(masked.tokens, dtype=np.float64)
    n_random, n_rows = gaps.shape
    rng = np.random.default_rng(seed)
    of_random = rng.multinomial(n_random, [1 / n_random] * n_random, size=resamples) / n_random
    of_rows = rng.multinomial(n_rows, [1 / n_rows] * n_rows, size=resamples)
    areas = ((of_random @ gaps) * of_rows).sum(axis=1) / (of_rows @ tokens)
    tail = (1 - confidence) / 2
    low, high = np.quantile(areas, (tail, 1 - tail))
    return AreaBetween(
        scorer=scorer,
        control=control,
        up_to=up_to,
        height=float(gaps.mean(axis=0).sum() / tokens.sum()),
        low=float(low),
        high=float(high),
        beaten=int((gaps.sum(axis=1) > 0).sum()),
        n_random=n_random,
    )


def trapezoid_weights(fractions: Sequence[float], up_to: float) -> Floats:
    """Return w (fractions,): w @ losses is the trapezoid rule from the first fraction to `up_to`.

    The curve is linear between its points, so `up_to` need not be one of them.
    """
    x = np.array(fractions, dtype=np.float64)
    ends = np.append(x[x < up_to], up_to)
    return np.array(
        [np.trapezoid(np.interp(ends, x, unit), ends) for unit in np.eye(len(x))], dtype=np.float64
    )
