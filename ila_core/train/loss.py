"""Cross entropy on loss-bearing positions only, without ever holding full float logits.

The transformer body runs once; then the `lm_head` *module* (it may carry an adapter or a gate,
which TRL's fused loss would skip) is called on the selected positions, chunk by chunk. In training
each chunk is differentiated at once, down to the body's output, and the body at last: nothing is
computed twice, and nothing as wide as the vocabulary is alive while the body runs backward.

    >>> token_loss = TokenLoss(model)
    >>> nll, row = token_loss(batch)         # one loss and one row number per target, no gradient
    >>> token_loss.backward(batch, 512)      # sum of the losses / 512; gradients are in `.grad`
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ila_core.data.batches import IGNORED
from ila_core.errors import CheckError

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
        CheckError: the model scales or caps its logits after `lm_head(body(x))`.
    """

    def __init__(self, model: nn.Module, *, logits_per_chunk: int = LOGITS_PER_CHUNK) -> None:
        causal: Any = getattr(model, "get_base_model", lambda: model)()
        self._causal = causal
        self._body: nn.Module = causal.base_model
        self._head: nn.Module = causal.get_output_embeddings()
        self._chunk = positions_per_chunk(self._checked_vocabulary(), logits_per_chunk)

    @torch.no_grad()
    def __call__(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return loss (targets,) in nats, float32 or wider, and its batch row (targets,)."""
        hidden, targets, positions = self._run(batch)
        log_p = self.log_p(hidden.flatten(0, 1)[positions], targets[positions])
        return -log_p, positions // hidden.shape[1]

    @torch.no_grad()
    def log_p(self, states: Tensor, targets: Tensor) -> Tensor:
        """Return log-probabilities (positions,) of targets (positions,) after states (.., d)."""
        parts = zip(
            torch.split(states, self._chunk), torch.split(targets, self._chunk), strict=True
        )
        return torch.cat(
            [_log_softmax(self._head(s)).gather(1, t[:, None])[:, 0] for s, t in parts]
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
        hidden, targets, positions = self._run(batch)
        output = hidden.detach().flatten(0, 1)
        gradient = torch.zeros_like(output)
        losses = []
        for part in torch.split(positions, self._chunk):
            leaf = output[part].requires_grad_(hidden.requires_grad)
            logits = self._head(leaf)
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
        return torch.stack(losses).sum() / divisor

    @torch.no_grad()
    def check_packing(self) -> None:
        """Compare two short documents that share a row with each of them alone.

        Raises:
            CheckError: a document's hidden states depend on what stands before it in its row.
        """
        a, b = (torch.arange(n, device=self.device) for n in (5, 4))
        # Two rows: transformers' FlashAttention finds packed documents in a single row only.
        both = torch.stack([torch.cat([a, b]), torch.cat([b, a])])
        with eval_mode(self._causal):
            alone = self.states(input_ids=a[None])[0]  # b is its beginning, and comes out so too
            packed = self.states(input_ids=both, position_ids=both)
        parts = [packed[0, :5], packed[0, 5:], packed[1, :4], packed[1, 4:]]
        difference = torch.cat(parts) - torch.cat([alone, alone[:4], alone[:4], alone])
        # Rounding, or what a neighbour does: the two are orders of magnitude apart.
        device = self.device.type
        autocast = torch.is_autocast_enabled(device)
        computed_in = torch.get_autocast_dtype(device) if autocast else alone.dtype
        allowed = max(1e-3, 8 * torch.finfo(computed_in).eps)
        found = (difference.norm() / torch.cat(parts).norm()).item()
        if found > allowed:
            raise CheckError(
                f"{type(self._causal).__name__} does not keep apart conversations that share a row "
                f"(hidden states move by {found:.1g}, {allowed:.1g} is allowed); use a model and "
                "an attention implementation that heed restarting position_ids, such as sdpa"
            )

    def _run(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return hidden (batch, length, d), next tokens (batch * length,), positions (targets,)."""
        hidden = self.states(**{k: v for k, v in batch.items() if k != "labels"})
        targets = pad(batch["labels"][:, 1:], (0, 1), value=IGNORED).flatten()
        return hidden, targets, (targets != IGNORED).nonzero()[:, 0]

    @torch.no_grad()
    def _checked_vocabulary(self) -> int:
        """Return the vocabulary size; compares our logits with the model's own on a few tokens."""
        causal = self._causal
        ids = torch.arange(4, device=self.device)[None]
        with eval_mode(causal):
            own = causal(input_ids=ids, use_cache=False).logits
            ours = self._head(self.states(input_ids=ids))
        if not torch.allclose(own.float(), ours.float(), rtol=1e-3, atol=1e-4, equal_nan=True):
            raise CheckError(
                f"{type(causal).__name__} changes its logits after lm_head (largest difference "
                f"{(own - ours).abs().max().item():.3g}), which the chunked loss would leave out; "
                "use a model whose logits are lm_head(body(x))"
            )
        return int(own.shape[-1])


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.log_softmax(-1, dtype=torch.promote_types(torch.float32, logits.dtype))
