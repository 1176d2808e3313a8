"""Linear layers from an architecture alone: counts, names, shapes, the head's rule, bad input."""

from __future__ import annotations

from typing import Any

import pytest

from ila_core.config import ModelConfig
from ila_core.errors import UserError
from ila_core.models.layers import (
    Examined,
    architecture_config,
    examine,
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


MIXTRAL = LLAMA | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
GPT_BIGCODE = {
    "model_type": "gpt_bigcode", "n_layer": 2, "n_embd": 16, "n_head": 2, "vocab_size": 32,
}  # fmt: skip
GEMMA3 = {
    "model_type": "gemma3",
    "text_config": {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    },
    "vision_config": {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    },
    "mm_tokens_per_image": 4,
}  # fmt: skip


def model(
    architecture: dict[str, Any] | None = None, lm_head: str = "adapt", **fields: Any
) -> ModelConfig:
    return ModelConfig.model_validate(
        {
            "name": "tiny",
            "source": "acme/tiny",
            "architecture": architecture or LLAMA,
            "dtype": "float32",
            "lm_head": lm_head,
            **fields,
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


def test_tensors_of_experts_are_layers() -> None:
    found = examine(model(MIXTRAL))
    # Attention, per block: q and o of 32 x 32, k and v of 16 x 32; the head; experts; router.
    covered, experts, router = 2 * 3072 + 64 * 32, 2 * 4 * 3 * 48 * 32, 2 * 4 * 32
    assert found.share == pytest.approx((covered + experts) / (covered + experts + router))
    gates = [f"model.layers.{block}.mlp.gate.weight (128)" for block in (0, 1)]
    assert found.outside == ", ".join(gates)
    assert [layer.type for layer in found.layers] == [
        *["q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"] * 2, "lm_head",
    ]  # fmt: skip
    assert found.layers[5].model_dump() == {
        "name": "model.layers.0.mlp.experts.down_proj",
        "block": 0,
        "type": "down_proj",
        "shape": (4, 32, 48),
    }
    assert found.layers[5].weights == 4 * 32 * 48 and found.layers[5].holds_experts
    assert Examined.model_validate_json(found.model_dump_json()) == found
    assert sum(layer.holds_experts for layer in found.layers) == 4


def test_experts_can_be_excluded() -> None:
    found = examine(model(MIXTRAL, exclude=[".*[.]experts[.].*"]))
    assert len(found.layers) == 2 * 4 + 1 and found.share > 0.95


def test_what_lies_outside_of_the_layers_is_counted_and_refused() -> None:
    mamba = {"model_type": "mamba", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1}
    with pytest.raises(UserError) as caught:
        find_layers(model(mamba, "untie"))
    assert f"hold {10496 / 11776:.1%} of its matrix weights" in str(caught.value)
    assert "are backbone.layers.0.mixer.A_log (1,024)" in str(caught.value)
    assert "allow_uncovered: true" in str(caught.value)


def test_what_the_profile_excludes_is_not_counted_as_uncovered() -> None:
    assert examine(model()).share == examine(model(lm_head="exclude")).share == 1
    found = examine(model(exclude=["model.layers.0", r".*\.up_proj"]))
    assert found.share == 1 and found.outside == ""
    names = {layer.name for layer in found.layers}
    assert len(names) == 6 + 1 and "model.layers.1.mlp.up_proj" not in names


@pytest.mark.parametrize("entry", ["up_proj", "model.layers.7", "model.layers.0.mlp.up"])
def test_an_exclusion_that_matches_nothing_is_refused(entry: str) -> None:
    with pytest.raises(UserError, match=r"matches no layer; allowed are a module's full name"):
        find_layers(model(exclude=[".*[.]q_proj", entry]))


def test_an_exclusion_is_a_regular_expression() -> None:
    with pytest.raises(ValueError, match="is no regular expression"):
        model(exclude=["*.up_proj"])


def test_only_the_language_model_of_a_wrapper_is_ranked() -> None:
    found = examine(model(GEMMA3, "untie"))
    assert {layer.name.split(".layers.")[0] for layer in found.layers} == {
        "model.language_model", "lm_head",
    }  # fmt: skip
    assert len(found.layers) == 2 * 7 + 1 and found.share == 1


def test_a_type_is_the_shortest_name_that_no_other_kind_has() -> None:
    layers = find_layers(model(GPT_BIGCODE, "untie"))
    assert [layer.type for layer in layers] == [
        *["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"] * 2, "lm_head",
    ]  # fmt: skip
    assert len({(layer.type, layer.block) for layer in layers}) == len(layers)


def test_a_field_that_transformers_does_not_declare_is_no_error() -> None:
    qwen = LLAMA | {"model_type": "qwen3_moe", "head_dim": 16, "num_experts": 4}
    assert find_layers(model(qwen))[0].shape == (64, 32)


def test_layers_that_peft_does_not_adapt_are_refused() -> None:
    qwen = LLAMA | {"model_type": "qwen3_moe", "head_dim": 8, "mlp_only_layers": [0, 1]}
    with pytest.raises(
        UserError, match=r"no adapter on model\.layers\.0\.mlp\.down_proj, .*`exclude:`"
    ):
        find_layers(model(qwen))
    assert len(find_layers(model(qwen, exclude=[r".*\.mlp\..*"]))) == 2 * 4 + 1
    mamba = {"model_type": "mamba", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1}
    with pytest.raises(UserError, match="'out_proj' is incompatible with Mamba-based models"):
        find_layers(model(mamba, "untie", allow_uncovered=True))


def test_a_linear_module_that_gives_no_tensor_is_no_layer() -> None:
    phi = LLAMA | {"model_type": "phimoe", "num_local_experts": 4, "num_experts_per_tok": 2}
    found = examine(model(phi))
    assert {layer.type for layer in found.layers} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj", "lm_head",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({"hidden_size": 8}, "architecture.model_type: required, and not given"),
        ({"model_type": "llamma"}, "architecture.model_type: given 'llamma'"),
        (LLAMA | {"hiden_size": 8}, "'hiden_size': did you mean 'hidden_size'"),
        (LLAMA | {"hidden_size": "wide"}, "'hidden_size' expected int, got str"),
        (LLAMA | {"num_attention_heads": 5}, "not a multiple of the number of attention heads"),
        (GPT2, "blocks of model_type 'gpt2' have no linear layers .* Conv1D, which keeps a weight"),
        (T5, "makes no causal language model of its architecture"),
    ],
)
def test_an_architecture_that_cannot_be_used_says_why(
    architecture: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        find_layers(model(architecture, "exclude"))
