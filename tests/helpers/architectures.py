"""Tiny models of many architectures of transformers: their fields for `architecture:`."""

from __future__ import annotations

from typing import Any

_S: dict[str, Any] = {
    "vocab_size": 1024, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "tie_word_embeddings": False, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_HEAD = {"head_dim": 8}
_LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
_EXPERTS = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}  # fmt: skip
_LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "linear_conv_kernel_dim": 4,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
_GPT = {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 128}
_DEEPSEEK = {
    "moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_routed_experts": 4,
    "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "n_shared_experts": 1,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 8, "num_key_value_heads": 4,
}  # fmt: skip
_VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
_MAMBA = {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "expand": 2}

_PLAIN = (
    *("llama", "mistral", "qwen2", "gemma", "phi", "phi3", "olmo", "olmo2", "stablelm"),
    *("starcoder2", "gpt_neox", "gpt_neox_japanese", "persimmon", "arcee", "seed_oss"),
    *("glm", "glm4", "granite", "cohere", "cohere2", "hyperclovax", "apertus"),
    *("exaone4", "ministral3", "diffllama", "biogpt", "opt", "xglm", "bloom", "bitnet"),
    *("codegen", "gptj", "gpt_bigcode", "gpt_neo", "mpt", "falcon", "olmo3", "jetmoe"),
)

FIELDS: dict[str, dict[str, Any]] = {
    **{name: {} for name in _PLAIN},
    **dict.fromkeys(("qwen3", "gemma2", "gemma3_text", "nemotron", "smollm3", "ernie4_5"), _HEAD),
    "helium": _HEAD,
    "vaultgemma": _HEAD,
    "gemma3": {"text_config": {**_S, **_HEAD}, "vision_config": _VISION, "mm_tokens_per_image": 4},
    **dict.fromkeys(("mixtral", "phimoe", "granitemoe"), _LOCAL),
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {**_LOCAL, **_HEAD},
    "qwen2_moe": {**_EXPERTS, **_HEAD},
    "qwen3_moe": {**_EXPERTS, **_HEAD},
    **dict.fromkeys(("deepseek_v2", "deepseek_v3"), _DEEPSEEK),
    "qwen3_next": {**_LINEAR, **_HEAD, **_EXPERTS},
    "qwen3_5_text": {**_LINEAR, **_HEAD},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "mamba": {"state_size": 8},
    "mamba2": _MAMBA,
    "falcon_mamba": {"state_size": 8},
    "recurrent_gemma": {
        "num_hidden_layers": 3, "num_key_value_heads": 1, "lru_width": 32,
        "attention_window_size": 64,
    },
    "gpt2": {},
    "xlstm": {"num_heads": 4},
    "rwkv": {"attention_hidden_size": 32, "context_length": 128},
    "zamba": {
        "num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4,
        "n_mamba_heads": 2, "mamba_dt_rank": 4, "use_mamba_kernels": False,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"], "tie_word_embeddings": True,
    },
    "t5": {"num_layers": 1, "d_model": 8, "tie_word_embeddings": False},
    "bert": {"is_decoder": True},
}  # fmt: skip

_INSTEAD: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("gpt_bigcode", "codegen", "gptj", "gpt2"), _GPT),
    "codegen": {**_GPT, "rotary_dim": 4, "n_ctx": 128},
    "gptj": {**_GPT, "rotary_dim": 4},
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    "bloom": {"n_head": 4, "n_layer": 2},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "xglm": {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4},
}


_GATED = [".*[.](mlp|shared_expert|shared_experts)[.](gate_proj|up_proj|down_proj)"]
_MIXER = [".*[.](dt_proj|out_proj)"]
EXCLUDE = {
    "deepseek_v2": _GATED, "deepseek_v3": _GATED, "qwen3_next": _GATED,
    "mamba": _MIXER, "mamba2": _MIXER, "falcon_mamba": _MIXER,
}  # fmt: skip
"""What a profile leaves out where PEFT refuses some layers, and Mamba's `dt_proj`, whose weight is
read without a call of the layer, so that an adapter on it does nothing."""


def architecture(model_type: str) -> dict[str, Any]:
    """What the profile of a tiny model of this type states."""
    from transformers import AutoConfig

    own = {**FIELDS[model_type], **_INSTEAD.get(model_type, {})}
    if model_type == "gemma3":
        return {"model_type": model_type, **own, "tie_word_embeddings": True}
    known = AutoConfig.for_model(model_type).to_dict()
    shared = {name: value for name, value in _S.items() if name in known and name not in own}
    return {"model_type": model_type, **shared, **own}
