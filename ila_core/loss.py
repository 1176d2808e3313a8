"""Cross entropy on loss-bearing positions only, without ever keeping full float logits.

The transformer body runs once; then the `lm_head` *module* (it may carry an adapter, which TRL's
fused loss would skip) is called on the selected positions, in chunks recomputed in backward.

    >>> nll, row = TokenLoss(model)(collate(rows))  # one loss and one row number per target
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ila_core.batches import IGNORED
from ila_core.errors import CheckError

LOGITS_PER_CHUNK = 2**25
"""Float logits alive at a time: 128 MiB, 1,048 positions of a vocabulary of 32,000."""


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """`model.eval()`, with every module's own mode restored afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


class TokenLoss:
    """Negative log-likelihood of every target token of a batch.

    Args:
        model: a causal language model of transformers, with or without a PEFT adapter.
        logits_per_chunk: more logits than this are computed in several chunks.

    Raises:
        CheckError: the model scales or caps its logits after `lm_head(body(x))`.
    """

    def __init__(self, model: nn.Module, *, logits_per_chunk: int = LOGITS_PER_CHUNK) -> None:
        causal: Any = getattr(model, "get_base_model", lambda: model)()
        self._body: nn.Module = causal.base_model
        self._head: nn.Module = causal.get_output_embeddings()
        self._logits_per_chunk = logits_per_chunk
        self._check(causal)

    def __call__(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Loss (targets,) in at least float32, differentiable, and batch row (targets,) of each."""
        inputs = {k: v for k, v in batch.items() if k != "labels"}
        hidden = cast(Tensor, self._body(**inputs, use_cache=False).last_hidden_state)
        targets = batch["labels"][:, 1:]
        bearing = targets != IGNORED
        hidden, targets = hidden[:, :-1][bearing], targets[bearing]
        rows = bearing.nonzero()[:, 0]

        size = max(1, self._logits_per_chunk // self._vocabulary)
        chunks = list(zip(torch.split(hidden, size), torch.split(targets, size), strict=True))
        if len(chunks) > 1 and torch.is_grad_enabled():
            nll = [checkpoint(self._chunk, h, t, use_reentrant=False) for h, t in chunks]
        else:
            nll = [self._chunk(h, t) for h, t in chunks]
        return torch.cat(nll), rows

    def _chunk(self, hidden: Tensor, targets: Tensor) -> Tensor:
        logits = self._head(hidden)
        precise = logits.to(torch.promote_types(torch.float32, logits.dtype))
        return F.cross_entropy(precise, targets, reduction="none")

    @torch.no_grad()
    def _check(self, causal: Any) -> None:
        """Compare with the model's own logits on a few tokens; learn the vocabulary from them."""
        ids = torch.arange(4, device=next(causal.parameters()).device)[None]
        with eval_mode(causal):
            own = causal(input_ids=ids, use_cache=False).logits
            ours = self._head(self._body(input_ids=ids, use_cache=False).last_hidden_state)
        self._vocabulary = own.shape[-1]
        if not torch.allclose(own.float(), ours.float(), rtol=1e-3, atol=1e-4, equal_nan=True):
            raise CheckError(
                f"{type(causal).__name__} changes its logits after lm_head (largest difference "
                f"{(own - ours).abs().max().item():.3g}), which the chunked loss would leave out; "
                "use a model whose logits are lm_head(body(x))"
            )
