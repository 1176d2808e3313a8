"""Fine-tuned parts taken into the base's own weights, and how far that moves the logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ila_core.models.experts import adapts_experts
from ila_core.train.methods import METHODS
from ila_core.train.methods.lora import lora_layers

PROBE = 32
"""Tokens that a merged model is compared on."""


def merged(base: Any, method: str, payload: Path) -> tuple[Any, Any]:
    """Merge the adapter into the base. Returns it, and the logits (1, tokens, vocabulary) before.

    Args:
        base: as `load_base` gives it, with a tied `lm_head` untied: an update of a tied one would
            change the embedding too. Used up.
        method: of the fine-tuning.
        payload: its folder.
    """
    model = METHODS[method].load(base, payload / METHODS[method].folder)
    before = _logits(model)
    return (model if method == "full" else model.merge_and_unload(safe_merge=True)), before


@contextmanager
def folded(model: Any) -> Iterator[None]:
    """LoRA's updates in the weights while the block lasts; then every weight is as it was, bit by
    bit.

    Of the passes of stories3M, layers with their updates beside them take 1.3 times as long. In
    float32, where adding an update moves results by rounding only; what is in 16 or 4 bits, or
    shared with the embedding, keeps its update beside it.
    """
    import torch

    from ila_core.train.lora_function import is_plain

    embedding = model.get_input_embeddings().weight
    weights: list[tuple[Any, Any]] = []
    for layer in lora_layers(model).values() if hasattr(model, "get_base_model") else ():
        if adapts_experts(layer):
            weights.append((layer, layer.get_param()))
        elif is_plain(layer) and type(layer.base_layer) is torch.nn.Linear:
            weights.append((layer, layer.base_layer.weight))
    kept = [
        (layer, weight, weight.data)
        for layer, weight in weights
        if weight.dtype == torch.float32 and weight is not embedding
    ]
    try:
        for layer, weight, own in kept:
            weight.data = own.clone()
            layer.merge()
        yield
    finally:
        for layer, weight, own in kept:
            if layer.merged:
                layer.unmerge()
            weight.data = own


def worst_difference(model: Any, before: Any) -> float:
    """Return the largest difference of a logit from what it was before merging."""
    return float((_logits(model) - before).abs().max())


def _logits(model: Any) -> Any:
    import torch

    from ila_core.train.loss import eval_mode

    device = next(model.parameters()).device
    tokens = torch.arange(min(PROBE, model.config.vocab_size), device=device)[None]
    with torch.no_grad(), eval_mode(model):
        return model(input_ids=tokens, use_cache=False).logits.float()
