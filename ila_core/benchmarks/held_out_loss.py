"""Held-out loss per conversation, and paired bootstrap intervals between two arms."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from ila_core.errors import CheckError, UserError

if TYPE_CHECKING:
    import numpy as np

    from ila_core.batches import Row

DRAWS_AT_ONCE = 2**22
"""Bounds the bootstrap's memory: row numbers drawn at a time."""


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


class Interval(BaseModel):
    """A difference of mean token losses; below 0 the first arm is better."""

    model_config = ConfigDict(frozen=True)

    difference: float
    low: float
    high: float
    confidence: float


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
                batch = {k: v.to(device) for k, v in collate([rows[i] for i in numbers]).items()}
                losses, row = token_loss(batch)
                sums = losses.new_zeros(len(numbers), dtype=torch.float64)
                sums.index_add_(0, row, losses.double())
                for i, value in zip(numbers, sums.tolist(), strict=True):
                    nll[i] = value
        broken = [i for i, value in enumerate(nll) if not math.isfinite(value)]
        if broken:
            raise CheckError(f"the loss of held-out row {broken[0]} is {nll[broken[0]]}")
        counts = [loss_tokens(row) for row in rows]
        return Evaluation(
            benchmark=self.name,
            loss=math.fsum(nll) / sum(counts),
            tokens=sum(counts),
            conversations=[
                ConversationLoss(nll=n, tokens=t) for n, t in zip(nll, counts, strict=True)
            ],
        )


def paired_bootstrap(
    a: Sequence[Evaluation],
    b: Sequence[Evaluation],
    *,
    resamples: int,
    confidence: float,
    seed: int,
) -> Interval:
    """Interval of the mean token loss of `a` minus that of `b`, resampling conversations.

    Args:
        a: one evaluation per training seed of the first arm; averaged per conversation first.
        b: the same of the second arm, on the same rows.
        resamples: bootstrap draws of all conversations with replacement.
        confidence: of the percentile interval, e.g. 0.95.
        seed: of the draws.
    """
    import numpy as np

    nll_a, tokens = _average(a)
    nll_b, tokens_b = _average(b)
    if not np.array_equal(tokens, tokens_b):
        raise CheckError("the two arms were not evaluated on the same rows")
    difference = nll_a - nll_b
    n = len(tokens)
    rng = np.random.default_rng(seed)
    drawn: list[np.ndarray[Any, Any]] = []
    for start in range(0, resamples, size := max(1, DRAWS_AT_ONCE // n)):
        rows = rng.integers(0, n, size=(min(size, resamples - start), n))
        drawn.append(difference[rows].sum(axis=1) / tokens[rows].sum(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(drawn), [tail, 1 - tail])
    return Interval(
        difference=float(difference.sum() / tokens.sum()),
        low=float(low),
        high=float(high),
        confidence=confidence,
    )


def _average(
    runs: Sequence[Evaluation],
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Loss per conversation, averaged over seeds, and its tokens."""
    import numpy as np

    tokens = np.array([[c.tokens for c in run.conversations] for run in runs])
    if (tokens != tokens[0]).any():
        raise CheckError("the seeds of one arm were not evaluated on the same rows")
    nll = np.array([[c.nll for c in run.conversations] for run in runs])
    return nll.mean(axis=0), tokens[0]
