"""One gradient of the gates at half open: what gate learning starts from, without the learning."""

from statistics import fmean

from ila_core.search.scoring import (
    Material,
    Needs,
    ScoreResult,
    adapted_layers,
    batches_of,
    gamma_gradient,
    tokens_of,
)


class GateGradient:
    needs: Needs = "rows"
    version = 1

    def score(self, material: Material) -> ScoreResult:
        """-dL/dgamma at gamma = 0.5 (s = 0), mean over batches, in nats per unit of gamma."""
        from ila_core.search.gates import Gates
        from ila_core.train.loss import TokenLoss

        model, batches = material.model, batches_of(material)
        assert model is not None
        layers = adapted_layers(material)
        with Gates(model, initial_score=0.0) as gates:
            loss = TokenLoss(model)
            gradients = [
                gamma_gradient(
                    model, gates, loss, rows, gamma=0.5, micro_batch=material.micro_batch
                )
                for rows in batches
            ]
        return ScoreResult(
            scores={name: -fmean(g[name] for g in gradients) for name in layers},
            cost_tokens=sum(map(tokens_of, batches)),
        )
