"""Which layers a `LoraConfig` adapts: PEFT's own rule, for all trainers that hand their lists on.

`tests/ila_core/export/test_formats.py` holds it against the PEFT that is installed.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ila_core.export.base import Export, Matches, matches
from ila_core.models.layers import Layer

ALL_LINEAR = "all-linear"
DEFAULT_RANK = 8
_BLOCK = re.compile(r".*?\.[^.]*\.(\d+)\.")


def lora_config(wanted: Export) -> dict[str, Any]:
    """Fields that `LoraConfig(**fields)` takes, and `LoraConfig.from_pretrained` from a file."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": wanted.base,
        "r": wanted.r,
        "lora_alpha": wanted.alpha,
        "lora_dropout": wanted.lora.dropout,
        "bias": "none",
        "target_modules": list(wanted.selection.train),
        "rank_pattern": wanted.other_ranks,
        "alpha_pattern": wanted.other_alphas,
    }


def adapted(config: Mapping[str, Any], layers: Sequence[Layer]) -> Matches:
    """The layers that PEFT adapts.

    A list names layers in full or by what stands after a dot, and `layers_to_transform` narrows the
    latter only; a string must match a whole name.
    """
    target = config.get("target_modules") or []
    only = config.get("layers_to_transform")
    blocks = [only] if isinstance(only, int) else only

    def selects(entry: str, name: str) -> bool:
        if _named(config.get("exclude_modules"), name) or _saved(config, name):
            return False
        if not isinstance(target, str):
            if name == entry:
                return True
            return name.endswith(f".{entry}") and (not blocks or _block(config, name) in blocks)
        if target.lower() == ALL_LINEAR:
            return name.rpartition(".")[2] != "lm_head"  # PEFT leaves the output embedding out
        return re.fullmatch(entry, name) is not None

    entries = alternatives(target) if isinstance(target, str) else list(target)
    found = matches("lora", entries, selects, layers)
    return replace(found, ranks={name: _rank(config, name) for name in found.layers})


def alternatives(pattern: str) -> list[str]:
    """The names in `^(a|b)$`, so that one that selects nothing is seen; else the whole pattern."""
    inner = re.fullmatch(r"\^\(([^()]*)\)\$", pattern)
    return inner[1].split("|") if inner else [pattern]


def _named(given: str | Sequence[str] | None, name: str) -> bool:
    if isinstance(given, str):
        return re.fullmatch(given, name) is not None
    return any(name == entry or name.endswith(f".{entry}") for entry in given or ())


def _saved(config: Mapping[str, Any], name: str) -> bool:
    # What is trained and saved in full gets no adapter.
    saved = config.get("modules_to_save") or ()
    return any(re.match(rf"(^|.*\.){entry}($|\..*)", name) for entry in saved)


def _block(config: Mapping[str, Any], name: str) -> int | None:
    given = config.get("layers_pattern") or ()
    patterns = [given] if isinstance(given, str) else given
    rules = [re.compile(rf"(?:^|.*?\.){pattern}\.(\d+)\.") for pattern in patterns] or [_BLOCK]
    found = next((match for rule in rules if (match := rule.match(name))), None)
    return int(found[1]) if found else None


def _rank(config: Mapping[str, Any], name: str) -> int:
    for key, rank in (config.get("rank_pattern") or {}).items():
        if re.match(rf"(.*\.)?({key})$", name):
            return rank if isinstance(rank, int) else sum(rank)  # AdaLoRA keeps a mask
    return int(config.get("r") or DEFAULT_RANK)
