"""Fine-tuned parts taken into the base's own weights, and how far that moves the logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
    layers = [
        layer
        for layer in (lora_layers(model).values() if hasattr(model, "get_base_model") else ())
        if is_plain(layer)
        and type(layer.base_layer) is torch.nn.Linear
        and layer.base_layer.weight.dtype == torch.float32
        and layer.base_layer.weight is not embedding
    ]
    kept = [layer.base_layer.weight.data for layer in layers]
    try:
        for layer, weight in zip(layers, kept, strict=True):
            layer.base_layer.weight.data = weight.clone()
            layer.merge()
        yield
    finally:
        for layer, weight in zip(layers, kept, strict=True):
            if layer.merged:
                layer.unmerge()
            layer.base_layer.weight.data = weight


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
