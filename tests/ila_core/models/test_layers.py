"""Linear layers from an architecture alone: counts, names, shapes, the head's rule, bad input."""

from __future__ import annotations

from typing import Any

import pytest

from ila_core.config import ModelConfig
from ila_core.errors import UserError
from ila_core.models.layers import (
    architecture_config,
    find_layers,
    fingerprint,
    layers_of,
)

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
GPT2 = {"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 16}
T5 = {"model_type": "t5", "num_layers": 1, "d_model": 8}


def model(architecture: dict[str, Any] | None = None, lm_head: str = "adapt") -> ModelConfig:
    return ModelConfig.model_validate(
        {
            "name": "tiny",
            "source": "acme/tiny",
            "architecture": architecture or LLAMA,
            "dtype": "float32",
            "lm_head": lm_head,
        }
    )


def test_layers_are_found_with_block_type_and_shape() -> None:
    layers = find_layers(model())
    assert [layer.name for layer in layers[:2]] == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.k_proj",
    ]
    assert len(layers) == 2 * 7 + 1
    assert layers[1].shape == (16, 32) and layers[1].type == "k_proj" and layers[1].block == 0
    assert layers[13].block == 1
    assert layers[-1].model_dump() == {
        "name": "lm_head",
        "block": None,
        "type": "lm_head",
        "shape": (64, 32),
    }


def test_the_head_follows_its_rule() -> None:
    tied = LLAMA | {"tie_word_embeddings": True}
    names = [layer.name for layer in find_layers(model(tied, "untie"))]
    assert names == [layer.name for layer in find_layers(model())]
    assert [layer.name for layer in find_layers(model(tied, "exclude"))] == names[:-1]
    with pytest.raises(UserError, match=r"lm_head: adapt, .* allowed: untie .* or exclude"):
        find_layers(model(tied, "adapt"))


def test_a_live_model_has_the_layers_of_its_architecture() -> None:
    from transformers import AutoModelForCausalLM

    live = AutoModelForCausalLM.from_config(architecture_config(model()))
    assert layers_of(live) == find_layers(model())
    assert layers_of(live, lm_head=False) == find_layers(model(lm_head="exclude"))


def test_four_bit_layers_are_layers_of_their_unpacked_shape() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    from torch import nn

    packed = nn.Sequential(bitsandbytes.nn.Linear4bit(16, 8), nn.Embedding(4, 4))
    assert [(layer.name, layer.shape) for layer in layers_of(packed)] == [("0", (8, 16))]


@pytest.mark.parametrize("shared", ["module", "weight"])
def test_a_layer_has_a_weight_of_its_own(shared: str) -> None:
    from transformers import AutoModelForCausalLM

    live = AutoModelForCausalLM.from_config(architecture_config(model()))
    first, second = (block.mlp for block in live.model.layers)
    if shared == "module":
        second.up_proj = first.up_proj
    else:
        second.up_proj.weight = first.up_proj.weight
    with pytest.raises(
        UserError, match=r"layers\.0\.mlp\.up_proj and model\.layers\.1\.mlp\.up_proj share one"
    ):
        layers_of(live)


def test_an_architecture_that_shares_blocks_is_refused() -> None:
    zamba = {
        "model_type": "zamba", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 16,
        "num_hidden_layers": 4, "num_attention_heads": 2, "attn_layer_period": 2,
        "attn_layer_offset": 1, "mamba_d_state": 4, "n_mamba_heads": 2, "mamba_dt_rank": 4,
        "use_mamba_kernels": False, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
    }  # fmt: skip
    with pytest.raises(UserError, match=r"share one weight; a layer needs a weight of its own"):
        find_layers(model(zamba, "exclude"))


def test_the_fingerprint_is_names_and_shapes() -> None:
    ours = fingerprint(find_layers(model()))
    assert ours == fingerprint(find_layers(model(LLAMA | {"rms_norm_eps": 1e-3})))
    assert ours != fingerprint(find_layers(model(LLAMA | {"vocab_size": 65})))
    assert ours != fingerprint(find_layers(model(lm_head="exclude")))


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({"hidden_size": 8}, "architecture.model_type: required, and not given"),
        ({"model_type": "llamma"}, "architecture.model_type: given 'llamma'"),
        (LLAMA | {"hiden_size": 8}, "'hiden_size': did you mean 'hidden_size'"),
        (LLAMA | {"hidden_size": "wide"}, "'hidden_size' expected int, got str"),
        (LLAMA | {"num_attention_heads": 5}, "not a multiple of the number of attention heads"),
        (GPT2, "blocks of model_type 'gpt2' have no linear layers"),
        (T5, "a causal language model is needed"),
    ],
)
def test_an_architecture_that_cannot_be_used_says_why(
    architecture: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        find_layers(model(architecture, "exclude"))
