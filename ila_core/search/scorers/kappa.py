"""KappaTune's condition number: the base weights alone (PEFT, `find_kappa_target_modules`).

It adapts the layers of the *lowest* condition number kappa, so the score is 1 / kappa.
"""

from statistics import fmean

from ila_core.search.scoring import Material, Needs, ScoreResult, base_weights


class Kappa:
    needs: Needs = "weights"
    version = 1

    def score(self, material: Material) -> ScoreResult:
        """1 / kappa: smallest over largest singular value, in [0, 1]; 0 for a singular matrix.

        Of experts, the mean of theirs. PEFT leaves out matrices with a side above 16,384; here none
        is left out.
        """
        import torch

        scores = {}
        for layer in material.layers:
            inverses = []
            for weight in base_weights(material.model, layer):
                values = torch.linalg.svdvals(weight)
                largest, smallest = float(values[0]), float(values[-1])
                inverses.append(smallest / largest if largest else 0.0)
            scores[layer.name] = fmean(inverses)
        return ScoreResult(scores=scores, cost_tokens=0)
