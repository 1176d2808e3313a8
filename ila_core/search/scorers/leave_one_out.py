"""What the loss rises by when one adapter alone is closed: exact, one evaluation per layer."""

from ila_core.search.scoring import FORWARD, Material, Needs, ScoreResult, tokens_of


class LeaveOneOut:
    needs: Needs = "rows"
    version = 1

    def score(self, material: Material) -> ScoreResult:
        """Loss with the layer's adapter closed minus loss with all open, in nats per token."""
        from ila_core.search.masked_loss import MaskedLoss

        rows, layers = material.sampled_rows(), material.adapted_layers()
        masked = MaskedLoss(material.model, rows, eval_batch=material.micro_batch)
        opened = masked.loss(())
        return ScoreResult(
            scores={name: masked.loss([name]) - opened for name in layers},
            cost_tokens=FORWARD * masked.evaluations * tokens_of(rows),
        )
