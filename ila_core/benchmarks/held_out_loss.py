"""Held-out loss, conversation by conversation: the report compares arms on the same ones."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from ila_core.errors import Diverged, UserError

if TYPE_CHECKING:
    from ila_core.batches import Row


class ConversationLoss(BaseModel):
    model_config = ConfigDict(frozen=True)

    nll: float
    """Negative log-likelihood, summed over the conversation's targets, in nats."""
    tokens: int


class Evaluation(BaseModel):
    """`evaluation.json`, less arm and seed."""

    model_config = ConfigDict(frozen=True)

    benchmark: str
    loss: float
    """Mean over all tokens."""
    tokens: int
    conversations: list[ConversationLoss]
    """In the order of the held-out rows."""


class HeldOutLoss:
    name = "held_out_loss"
    version = 1
    unit = "nats per token"

    def chance(self, vocab_size: int) -> float:
        """Every token equally likely."""
        return math.log(vocab_size)

    def run(
        self, model: Any, rows: Sequence[Row], *, eval_batch: int, progress: bool = False
    ) -> Evaluation:
        """Evaluate `model` (base, or base with an adapter) in batches of similar length."""
        import torch
        from tqdm import tqdm

        from ila_core.batches import collate, loss_tokens
        from ila_core.loss import TokenLoss, eval_mode

        if not rows:
            raise UserError("no held-out rows; raise data.held_out_fraction")
        device = next(model.parameters()).device
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i].input_ids))
        batches = [order[i : i + eval_batch] for i in range(0, len(order), eval_batch)]
        nll = [0.0] * len(rows)
        shown = progress and sys.stderr.isatty()
        with torch.no_grad(), eval_mode(model):
            token_loss = TokenLoss(model)
            for numbers in tqdm(batches, desc=self.name, unit="batch", disable=not shown):
                batch = {k: v.to(device) for k, v in collate([[rows[i]] for i in numbers]).items()}
                losses, row = token_loss(batch)
                sums = losses.new_zeros(len(numbers), dtype=torch.float64)
                sums.index_add_(0, row, losses.double())
                for i, value in zip(numbers, sums.tolist(), strict=True):
                    nll[i] = value
        broken = [i for i, value in enumerate(nll) if not math.isfinite(value)]
        if broken:
            raise Diverged(f"the loss of held-out row {broken[0]} is {nll[broken[0]]}")
        counts = [loss_tokens(row) for row in rows]
        return Evaluation(
            benchmark=self.name,
            loss=math.fsum(nll) / sum(counts),
            tokens=sum(counts),
            conversations=[
                ConversationLoss(nll=n, tokens=t) for n, t in zip(nll, counts, strict=True)
            ],
        )
