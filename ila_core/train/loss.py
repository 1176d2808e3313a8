"""Cross entropy on loss-bearing positions only, without ever holding full float logits.

The transformer body runs once; then the `lm_head` *module* (it may carry an adapter or a gate,
which TRL's fused loss would skip) is called on the selected positions, chunk by chunk. In training
each chunk is differentiated at once, down to the body's output, and the body at last: nothing is
computed twice, and nothing as wide as the vocabulary is alive while the body runs backward.

What a model does to its logits after `lm_head`, a scale or a soft cap, is measured and done here.
Conversations that share a row are given a row each where the model does not keep them apart.

    >>> token_loss = TokenLoss(model)
    >>> nll, row = token_loss(batch)         # one loss and one row number per target, no gradient
    >>> token_loss.backward(batch, 512)      # sum of the losses / 512; gradients are in `.grad`
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ila_core.data.loss_mask import IGNORED
from ila_core.errors import CheckError
from ila_core.models.layers import language_model
from ila_core.models.packing import alone, leak
from ila_core.models.tail import Tail, tail_of

log = logging.getLogger("ila")

LOGITS_PER_CHUNK = 2**25
"""Most float logits alive at a time: 128 MiB."""
_POSITIONS_PER_CHUNK = 512
"""Rows enough for a matrix product to be fast; 64 MiB at a vocabulary of 32,000."""


def positions_per_chunk(vocabulary: int, logits: int = LOGITS_PER_CHUNK) -> int:
    """Return how many positions have their logits in memory at a time."""
    return max(1, min(_POSITIONS_PER_CHUNK, logits // vocabulary))


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Switch to `model.eval()` within the block; restore every module's own mode afterwards."""
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
        logits_per_chunk: more logits than this, or more than 512 positions, are computed in
            several chunks.

    Raises:
        CheckError: the model does more to its logits than to scale and to cap them.
    """

    def __init__(self, model: nn.Module, *, logits_per_chunk: int = LOGITS_PER_CHUNK) -> None:
        causal: Any = getattr(model, "get_base_model", lambda: model)()
        self._causal = causal
        self._body: nn.Module = language_model(causal) or causal.base_model
        self._head: nn.Module = causal.get_output_embeddings()
        self._tail = self._measured_tail()
        self.vocabulary = self._checked_vocabulary()
        self._chunk = positions_per_chunk(self.vocabulary, logits_per_chunk)
        self._packs: bool | None = None
        self._cost_said = False

    @torch.no_grad()
    def __call__(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return loss (targets,) in nats, float32 or wider, and its batch row (targets,)."""
        losses, rows = [], []
        for part, row_of in self._parts(batch):
            hidden, targets, positions = self._run(part)
            losses.append(-self.log_p(hidden.flatten(0, 1)[positions], targets[positions]))
            row = positions // hidden.shape[1]
            rows.append(row if row_of is None else row_of[row])
        return torch.cat(losses), torch.cat(rows)

    @torch.no_grad()
    def log_p(self, states: Tensor, targets: Tensor) -> Tensor:
        """Return log-probabilities (positions,) of targets (positions,) after states (.., d)."""
        parts = zip(
            torch.split(states, self._chunk), torch.split(targets, self._chunk), strict=True
        )
        return torch.cat(
            [_log_softmax(self._logits(s)).gather(1, t[:, None])[:, 0] for s, t in parts]
        )

    def states(self, **inputs: Any) -> Tensor:
        """Return the last hidden states, the input of `lm_head`: (batch, length, d)."""
        return cast(Tensor, self._body(**{"use_cache": False, **inputs}).last_hidden_state)

    @property
    def config(self) -> Any:
        return self._causal.config

    @property
    def device(self) -> torch.device:
        return cast(torch.device, next(self._causal.parameters()).device)

    def backward(self, batch: dict[str, Tensor], divisor: int) -> Tensor:
        """Add the gradients of the summed loss / `divisor` to `.grad`; return that number, 0-d.

        Raises:
            RuntimeError: nothing in the model requires a gradient.
        """
        parts = [self._backward(part, divisor) for part, _ in self._parts(batch)]
        return torch.stack(parts).sum() / divisor

    def _backward(self, batch: dict[str, Tensor], divisor: int) -> Tensor:
        """Add the gradients of the summed loss / `divisor`; return the summed loss, 0-d."""
        hidden, targets, positions = self._run(batch)
        output = hidden.detach().flatten(0, 1)
        gradient = torch.zeros_like(output)
        losses = []
        for part in torch.split(positions, self._chunk):
            leaf = output[part].requires_grad_(hidden.requires_grad)
            logits = self._logits(leaf)
            # d(-log p_t) / d logits = softmax - onehot(t), made in place of log p: two tensors of
            # this size are alive where autograd's own cross entropy has three.
            log_p = _log_softmax(logits.detach())
            at_target = torch.arange(len(part), device=part.device), targets[part]
            losses.append(-log_p[at_target].sum())
            log_p.exp_()[at_target] -= 1
            torch.autograd.backward(logits, log_p.div_(divisor).to(logits.dtype))
            if leaf.grad is not None:
                gradient[part] = leaf.grad
            del leaf, logits, log_p  # or the last chunk's live on while the body runs backward
        if hidden.requires_grad:
            torch.autograd.backward(hidden, gradient.view_as(hidden))
        return torch.stack(losses).sum()

    def keeps_apart(self) -> bool:
        """Whether conversations that share a row are kept apart; measured once, in float32."""
        if self._packs is None:
            ids = self._causal.get_input_embeddings().num_embeddings
            with eval_mode(self._causal):
                reason = leak(self._body, self.states, ids, self.device)
            self._packs = reason is None
            if reason is not None:
                log.warning(
                    "%s does not keep apart conversations that share a row (%s): each gets a row "
                    "of its own, which takes longer",
                    *(type(self._causal).__name__, reason),
                )
        return self._packs

    def _parts(self, batch: dict[str, Tensor]) -> Iterator[tuple[dict[str, Tensor], Tensor | None]]:
        """Yield the batch, or where packing leaks its conversations, each with its batch row."""
        if "position_ids" not in batch or self.keeps_apart():
            yield batch, None
            return
        parts = list(alone(batch))
        if not self._cost_said:
            self._cost_said = True
            tokens = sum(part["input_ids"].numel() for part, _ in parts)
            log.info(
                "a packed batch of %d tokens is read as %d conversations: %d tokens with padding, "
                "in %d passes",
                batch["input_ids"].numel(),
                *(sum(len(rows) for _, rows in parts), tokens, len(parts)),
            )
        yield from parts

    def _logits(self, states: Tensor) -> Tensor:
        return self._tail(self._head(states))

    def _run(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return hidden (batch, length, d), next tokens (batch * length,), positions (targets,)."""
        hidden = self.states(**{k: v for k, v in batch.items() if k != "labels"})
        targets = pad(batch["labels"][:, 1:], (0, 1), value=IGNORED).flatten()
        return hidden, targets, (targets != IGNORED).nonzero()[:, 0]

    @torch.no_grad()
    def _measured_tail(self) -> Tail:
        ids = torch.arange(4, device=self.device)[None]
        with eval_mode(self._causal):
            return tail_of(
                lambda: self._causal(input_ids=ids, use_cache=False).logits,
                self._head,
                type(self._causal).__name__,
            )

    @torch.no_grad()
    def _checked_vocabulary(self) -> int:
        """Return the vocabulary size; compares our logits with the model's own on a few tokens."""
        causal = self._causal
        ids = torch.arange(4, device=self.device)[None]
        with eval_mode(causal):
            own = causal(input_ids=ids, use_cache=False).logits
            ours = self._logits(self.states(input_ids=ids))
        if not torch.allclose(own.float(), ours.float(), rtol=1e-3, atol=1e-4, equal_nan=True):
            raise CheckError(
                f"{type(causal).__name__} has other logits than lm_head(body(x)) (by up to "
                f"{(own - ours).abs().max().item():.3g}), scaled or capped as it does, and the "
                "chunked loss would be another; use a model whose logits are that"
            )
        return int(own.shape[-1])


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.log_softmax(-1, dtype=torch.promote_types(torch.float32, logits.dtype))
