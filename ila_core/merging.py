"""Fine-tuned parts taken into the base's own weights, and how far that moves the logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ila_core.methods import METHODS

PROBE = 32
"""Tokens that a merged model is compared on."""


def merged(base: Any, method: str, payload: Path) -> tuple[Any, Any]:
    """The base with everything in its own weights, and the logits (1, tokens, vocabulary) before.

    Args:
        base: as `load_base` gives it, with a tied `lm_head` untied: an update of a tied one would
            change the embedding too. Used up.
        method: of the fine-tuning.
        payload: its folder.
    """
    model = METHODS[method].load(base, payload / METHODS[method].folder)
    before = _logits(model)
    return (model if method == "full" else model.merge_and_unload(safe_merge=True)), before


def worst_difference(model: Any, before: Any) -> float:
    """The largest difference of a logit from what it was before merging."""
    return float((_logits(model) - before).abs().max())


def _logits(model: Any) -> Any:
    import torch

    from ila_core.loss import eval_mode

    device = next(model.parameters()).device
    tokens = torch.arange(min(PROBE, model.config.vocab_size), device=device)[None]
    with torch.no_grad(), eval_mode(model):
        return model(input_ids=tokens, use_cache=False).logits.float()
