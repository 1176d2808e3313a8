"""Real architectures without weights, and selections over their layers, for the exporters."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from ila_core.config import LoraSettings, ModelConfig
from ila_core.config.load import load_model_config
from ila_core.export.base import Export, Training
from ila_core.models.architecture import architecture_config
from ila_core.models.layers import fingerprint, layers_of
from ila_core.search.ranking import LayerScores, Ranking, order
from ila_core.selection.select import lora_parameters
from ila_core.selection.selection import Selection

LORA = LoraSettings(r=8, alpha=16, dropout=0.1)
# Twelve blocks, so that there is a block 1 and a block 11, and biases on q, k and v as in Qwen2.
BIASED = ModelConfig.model_validate(
    {
        "name": "biased",
        "source": "acme/biased",
        "dtype": "float32",
        "lm_head": "adapt",
        "architecture": {
            "model_type": "qwen2", "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32,
            "num_hidden_layers": 12, "num_attention_heads": 2, "num_key_value_heads": 1,
            "tie_word_embeddings": False,
        },
    }
)  # fmt: skip
EXPERTS = BIASED.model_copy(
    update={
        "name": "experts",
        "source": "acme/experts",
        "architecture": BIASED.architecture
        | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
    }
)
ARCHITECTURES = ("llama2-7b", "mistral-7b", "llama3.1-8b", "biased")


@dataclass(frozen=True)
class Case:
    config: ModelConfig
    parameters: dict[str, int]
    """Every parameter of the model, with its size."""
    ranking: Ranking

    def model(self) -> Any:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(architecture_config(self.config))

    def selection(self, keep: int | None = None, without: str = "") -> Selection:
        """The highest `keep` layers; block 1 and block 11 differ in every type of layer."""
        layers = self.ranking.layers
        kept = set(order(self.ranking.scores("lima"), layers)[: keep or 3 * len(layers) // 4])
        for layer in layers:
            if layer.block == 1:
                kept.add(layer.name)
            elif layer.block == 11 or layer.name == without:
                kept.discard(layer.name)
        return self.selected(kept)

    def selected(self, names: set[str]) -> Selection:
        layers = self.ranking.layers
        train = [layer for layer in layers if layer.name in names]
        return Selection(
            policy="ila",
            source="lima",
            train=tuple(layer.name for layer in train),
            frozen=tuple(layer.name for layer in layers if layer.name not in names),
            trainable_parameters=lora_parameters(train, LORA.r),
            details={},
        )

    def export(self, method: Training, selection: Selection | None = None, **more: Any) -> Export:
        chosen = selection or self.selection()
        return Export(self.ranking, chosen, method, LORA, self.config.source, **more)


@functools.cache
def case(name: str) -> Case:
    own = {"biased": BIASED, "experts": EXPERTS}
    config = own[name] if name in own else load_model_config(name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(architecture_config(config))
    layers = layers_of(model)
    rng = random.Random(0)
    drawn = {x.name: {d: {"0": rng.random()} for d in ("lima", "dolly")} for x in layers}
    drawn["lm_head"]["lima"]["0"] = 2.0
    ranking = Ranking(
        base_model=config.name, model={}, architecture=fingerprint(layers), key="3f9c21a07b4e",
        scorer="ila", keep=0.75,
        stable={"lima": {"0": True}, "dolly": {"0": True}}, unsure={"lima": None, "dolly": None},
        score_keys={"lima": {"0": "x"}, "dolly": {"0": "y"}},
        data_keys={"lima": "d", "dolly": "e"}, settings={}, versions={},
        layers=tuple(
            LayerScores(**x.model_dump(), scores=drawn[x.name]) for x in layers
        ),
    )  # fmt: skip
    sizes = {parameter: tensor.numel() for parameter, tensor in model.named_parameters()}
    return Case(config, sizes, ranking)
