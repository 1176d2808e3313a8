"""The scorer table and its trivial entry."""

from __future__ import annotations

from ila_core.ranking import Layer, order
from ila_core.scorers import size


def test_size_ranks_the_smallest_matrix_last() -> None:
    layers = [
        Layer(name=f"model.layers.0.{kind}", block=0, type=kind, shape=shape)
        for kind, shape in {"q_proj": (8, 8), "k_proj": (2, 8), "up_proj": (24, 8)}.items()
    ]
    assert order(size.score(layers), layers)[-1] == "model.layers.0.k_proj"
    assert size.score(layers)["model.layers.0.up_proj"] == 192
