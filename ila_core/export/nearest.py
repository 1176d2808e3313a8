"""The nearest selection that a trainer's format can express, and its difference in numbers."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

from ila_core.models.layers import Layer

Cost = Callable[[Layer], int]
"""Returns the number of parameters that train when the layer is selected."""


@dataclass(frozen=True)
class Loss:
    """The difference between the layers that train and those that were selected."""

    extra: tuple[str, ...]
    missing: tuple[str, ...]
    extra_parameters: int
    missing_parameters: int

    @property
    def parameters(self) -> int:
        return self.extra_parameters + self.missing_parameters

    def __str__(self) -> str:
        return (
            f"{len(self.extra)} layers train that should be frozen "
            f"({self.extra_parameters:,} parameters), {len(self.missing)} are frozen that should "
            f"train ({self.missing_parameters:,} parameters)"
        )


def loss(
    layers: Sequence[Layer], wanted: Collection[str], trains: Collection[str], cost: Cost
) -> Loss:
    """Compare the layers that train with those that were selected."""
    extra = [x for x in layers if x.name in trains and x.name not in wanted]
    missing = [x for x in layers if x.name in wanted and x.name not in trains]
    return Loss(
        tuple(x.name for x in extra),
        tuple(x.name for x in missing),
        sum(map(cost, extra)),
        sum(map(cost, missing)),
    )


def nearest_grid(
    layers: Sequence[Layer], wanted: Collection[str], cost: Cost
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Find the types and blocks whose product differs from `wanted` in the fewest parameters.

    The search is exact: for given types each block is independent, and there are few types.
    """
    gain: dict[tuple[str, int], int] = {}
    for layer in layers:
        if layer.block is not None:
            at = (layer.type, layer.block)
            gain[at] = gain.get(at, 0) + cost(layer) * (1 if layer.name in wanted else -1)
    types = sorted({kind for kind, _ in gain})
    blocks = sorted({block for _, block in gain})
    best: tuple[int, tuple[str, ...], tuple[int, ...]] = (0, (), ())
    for some in chain.from_iterable(combinations(types, n) for n in range(1, len(types) + 1)):
        gains = {b: sum(gain.get((kind, b), 0) for kind in some) for b in blocks}
        chosen = tuple(b for b in blocks if gains[b] > 0)
        total = sum(gains[b] for b in chosen)
        if total > best[0]:
            best = (total, some, chosen)
    return best[1], best[2]


def nearest_blocks(
    layers: Sequence[Layer], wanted: Collection[str], cost: Cost
) -> tuple[int, tuple[str, ...]]:
    """Find the last n blocks (the first, -n) and their modules nearest to `wanted` (LLaMA-Factory).

    The search is exact: for given blocks each module is independent.
    """
    blocks = sorted({layer.block for layer in layers if layer.block is not None})
    best: tuple[int, int, tuple[str, ...]] = (0, 0, ())
    for count in range(1, len(blocks) + 1):
        for n, chosen in ((count, blocks[-count:]), (-count, blocks[:count])):
            gain: dict[str, int] = {}
            for layer in layers:
                if layer.block in chosen:
                    part = component(layer)
                    sign = 1 if layer.name in wanted else -1
                    gain[part] = gain.get(part, 0) + sign * cost(layer)
            modules = tuple(part for part in gain if gain[part] > 0)
            total = sum(gain[part] for part in modules)
            if total > best[0]:
                best = (total, n, modules)
    return best[1], best[2]


def component(layer: Layer) -> str:
    """Return the first part of the name below the block: `self_attn`, `mlp`."""
    return layer.name.partition(f".{layer.block}.")[2].partition(".")[0]
