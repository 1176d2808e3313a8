"""One gradient of the gates at half open: what gate learning starts from, without the learning."""

from ila_core.search.scoring import Material, Needs, ScoreResult, mean_gains, tokens_of


class GateGradient:
    needs: Needs = "rows"
    version = 1

    def score(self, material: Material) -> ScoreResult:
        """-dL/dgamma at gamma = 0.5 (s = 0), mean over batches, in nats per unit of gamma."""
        from ila_core.search.gates import Gates

        batches = material.batches()
        material.adapted_layers()  # raises for a layer without a trained adapter
        with Gates(material.model, initial_score=0.0) as gates:
            scores = mean_gains(material, gates, batches, [0.5] * len(batches))
        return ScoreResult(scores=scores, cost_tokens=sum(map(tokens_of, batches)))
