"""Chance: a score that knows nothing of the layer but its name."""

import random

from ila_core.search.scoring import Material, Needs, ScoreResult


class Random:
    needs: Needs = "shapes"
    version = 1

    def score(self, material: Material) -> ScoreResult:
        """Uniform on [0, 1), by seed and layer name: other layers do not change it."""
        seed = material.seed
        scores = {x.name: random.Random(f"{seed}/{x.name}").random() for x in material.layers}
        return ScoreResult(scores=scores, cost_tokens=0)
