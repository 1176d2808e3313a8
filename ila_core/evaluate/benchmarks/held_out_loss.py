"""Held-out loss of each conversation: the report compares arms on the same conversations."""

import math
from collections.abc import Sequence
from typing import Any

from ila_core.compare.results import Evaluation, Item
from ila_core.config import EvaluateConfig
from ila_core.data.batches import Row
from ila_core.evaluate.subject import Need, Resolved, Subject
from ila_core.resolve import Lock
from ila_core.train.held_out_loss import held_out_loss


class HeldOutLoss:
    name = "held_out_loss"
    version = 1
    needs: tuple[Need, ...] = ("rows",)

    def identity(self, evaluate: EvaluateConfig, lock: Lock) -> Resolved:
        return {"limit": evaluate.limit}

    def run(self, subject: Subject, evaluate: EvaluateConfig, resolved: Resolved) -> Evaluation:
        return loss_on(
            subject.rows[: evaluate.limit],
            subject,
            benchmark=self.name,
            comparable={"rows": subject.rows_digest, "limit": evaluate.limit},
        )


def loss_on(rows: Sequence[Row], subject: Subject, **fields: Any) -> Evaluation:
    """Measure the model's loss on each of `rows`; `fields` are the result's other ones."""
    found = held_out_loss(
        subject.model,
        rows,
        eval_batch=subject.runtime.eval_batch,
        progress=subject.runtime.progress,
    )
    losses = enumerate(found.conversations)
    return Evaluation(
        unit="nats per token",
        better="lower",
        chance=math.log(subject.model.config.vocab_size),
        items=tuple(Item(id=str(i), value=x.nll, weight=x.tokens) for i, x in losses),
        **fields,
    )
