"""The loss of a model on held-out rows, conversation by conversation."""

import math
import sys
from collections.abc import Sequence
from typing import Any

from ila_core.config.base import FrozenResult
from ila_core.data.batches import Row, collate, loss_tokens
from ila_core.errors import Diverged, UserError
from ila_core.models.loading import in_float64


class ConversationLoss(FrozenResult):
    nll: float
    """Negative log-likelihood, summed over the conversation's targets, in nats."""
    tokens: int


class HeldOut(FrozenResult):
    """The loss of one model on held-out rows."""

    loss: float
    """Mean over all tokens."""
    tokens: int
    conversations: list[ConversationLoss]
    """The loss of each conversation, in the order of the held-out rows."""


def held_out_loss(
    model: Any, rows: Sequence[Row], *, eval_batch: int, progress: bool = False
) -> HeldOut:
    """Evaluate `model` (base, or base with an adapter) in batches of similar length.

    Raises:
        UserError: there are no rows.
        Diverged: a loss that is not finite.
    """
    import torch
    from tqdm import tqdm

    from ila_core.train.loss import TokenLoss, eval_mode

    if not rows:
        raise UserError("no held-out rows; raise data.held_out_fraction")
    device = next(model.parameters()).device
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].input_ids))
    batches = [order[i : i + eval_batch] for i in range(0, len(order), eval_batch)]
    nll = [0.0] * len(rows)
    shown = progress and sys.stderr.isatty()
    with torch.no_grad(), eval_mode(model):
        token_loss = TokenLoss(model)
        for numbers in tqdm(batches, desc="held_out_loss", unit="batch", disable=not shown):
            batch = {k: v.to(device) for k, v in collate([[rows[i]] for i in numbers]).items()}
            losses, row = token_loss(batch)
            exact = in_float64(losses)
            sums = exact.new_zeros(len(numbers))
            sums.index_add_(0, row.to(exact.device), exact)
            for i, value in zip(numbers, sums.tolist(), strict=True):
                nll[i] = value
    broken = [i for i, value in enumerate(nll) if not math.isfinite(value)]
    if broken:
        raise Diverged(f"the loss of held-out row {broken[0]} is {nll[broken[0]]}")
    counts = [loss_tokens(row) for row in rows]
    return HeldOut(
        loss=math.fsum(nll) / sum(counts),
        tokens=sum(counts),
        conversations=[ConversationLoss(nll=n, tokens=t) for n, t in zip(nll, counts, strict=True)],
    )
