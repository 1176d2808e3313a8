"""Which layers a `LoraConfig` adapts, for all trainers that hand their lists on to PEFT."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from ila_core.export.base import Export, Matches, matches
from ila_core.models.layers import Layer

ALL_LINEAR = "all-linear"
DEFAULT_RANK = 8
OUTPUT_EMBEDDING = "lm_head"


def lora_config(wanted: Export) -> dict[str, Any]:
    """Fields that `LoraConfig(**fields)` takes, and `LoraConfig.from_pretrained` from a file."""
    modules = [layer.name for layer in wanted.chosen if not layer.holds_experts]
    experts = [layer.name for layer in wanted.chosen if layer.holds_experts]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": wanted.base,
        "revision": wanted.revision,
        "r": wanted.r,
        "lora_alpha": wanted.alpha,
        "lora_dropout": wanted.lora.dropout,
        "bias": "none",
        "target_modules": modules,
        **({"target_parameters": experts} if experts else {}),
        "rank_pattern": wanted.other_ranks,
        "alpha_pattern": wanted.other_alphas,
    }


def adapted(config: Mapping[str, Any], layers: Sequence[Layer]) -> Matches:
    """The layers that PEFT adapts, by the function with which it chooses them, and their ranks."""
    from peft.tuners.tuners_utils import check_target_module_exists

    target = config.get("target_modules") or []
    given = {"target_parameters": None, **config}
    rules: dict[str, str | list[str]]
    if not isinstance(target, str):
        rules = {entry: [entry] for entry in target}
    elif target.lower() == ALL_LINEAR:  # of the model's linear layers PEFT leaves out the head
        rules = {target: rf"(?!(.*\.)?{OUTPUT_EMBEDDING}$).*"}
    else:
        rules = {entry: entry for entry in alternatives(target)}
    configs = {e: SimpleNamespace(**given | {"target_modules": rule}) for e, rule in rules.items()}

    parameters = list(config.get("target_parameters") or [])
    experts = {layer.name for layer in layers if layer.holds_experts}

    def selects(entry: str, name: str) -> bool:
        if name in experts:
            return entry in parameters and f".{name}".endswith(f".{entry}")
        return entry in configs and bool(check_target_module_exists(configs[entry], name))

    found = matches("lora", list(dict.fromkeys([*rules, *parameters])), selects, layers)
    return replace(found, ranks={name: rank_of(config, name) for name in found.layers})


def rank_of(config: Mapping[str, Any], name: str) -> int:
    """The rank that PEFT gives a layer."""
    from peft.utils.other import get_pattern_key

    patterns = config.get("rank_pattern") or {}
    found = patterns.get(get_pattern_key(patterns, name), config.get("r") or DEFAULT_RANK)
    return sum(found) if isinstance(found, list) else int(found)  # AdaLoRA keeps a mask


def alternatives(pattern: str) -> list[str]:
    """The names in `^(a|b)$`, so that one that selects nothing is seen; else the whole pattern."""
    inner = re.fullmatch(r"\^\(([^()]*)\)\$", pattern)
    return inner[1].split("|") if inner else [pattern]
