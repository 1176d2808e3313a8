"""The scorer table and its trivial entry."""

from __future__ import annotations

from pathlib import Path

import ila_core.scorers
from ila_core.ranking import Layer, order
from ila_core.scorers import SCORERS, size


def test_every_scorer_file_is_in_the_table() -> None:
    files = {p.stem for p in Path(ila_core.scorers.__file__).parent.glob("*.py")} - {"__init__"}
    assert files <= set(SCORERS)
    assert {name for name, s in SCORERS.items() if s.from_shapes is not None} <= files


def test_size_ranks_the_smallest_matrix_last() -> None:
    layers = [
        Layer(name=f"model.layers.0.{kind}", block=0, type=kind, shape=shape)
        for kind, shape in {"q_proj": (8, 8), "k_proj": (2, 8), "up_proj": (24, 8)}.items()
    ]
    assert order(size.score(layers), layers)[-1] == "model.layers.0.k_proj"
    assert size.score(layers)["model.layers.0.up_proj"] == 192
