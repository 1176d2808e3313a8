"""ms-swift: a shell script with the arguments that select the layers to train."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ila_core.errors import UserError
from ila_core.export.base import (
    Export,
    Exported,
    Matches,
    commented,
    head_note,
    refuse_fraction,
    refuse_ranks,
)
from ila_core.export.parameter_rule import FSDP, FULL, by_parameters
from ila_core.export.peft_rule import ALL_LINEAR, adapted
from ila_core.models.layers import Layer

FILE = "swift.sh"


class Swift:
    def export(self, wanted: Export) -> Exported:
        if wanted.method == "lora":
            arguments, notes = _lora(wanted), head_note(wanted)
        else:
            arguments, notes = _full(wanted), (FULL, FSDP)
        notes = (
            f"bash {FILE} --dataset ...: what you add goes to `swift sft`. ms-swift before 4 calls "
            "--tuner_type --train_type.",
            *notes,
        )
        lines = " \\\n  ".join(
            ["swift sft", *(f"--{name} {value}" for name, value in arguments.items()), '"$@"']
        )
        text = f"#!/usr/bin/env bash\n{commented(wanted, notes)}{lines}\n"
        return Exported({FILE: text}, wanted.selection.train, notes)

    def reads(self, name: str, text: str) -> bool:
        return name.endswith(".sh") and re.search(r"\bswift (sft|pt|rlhf)\b", text) is not None

    def selected(self, text: str, layers: Sequence[Layer], parameters: Sequence[str]) -> Matches:
        given = _arguments(text)
        if _one(given, "tuner_type", _one(given, "train_type", "lora")) == "full":
            return _unfrozen(given, layers, parameters)
        target: str | list[str] = _one(given, "target_regex", "")
        if not target:
            target = given.get("target_modules", [ALL_LINEAR])
            target = ALL_LINEAR if target == [ALL_LINEAR] else target
        return adapted({"r": int(_one(given, "lora_rank", "8")), "target_modules": target}, layers)


def _lora(wanted: Export) -> dict[str, str]:
    refuse_ranks(wanted, "ms-swift")
    refuse_fraction(wanted, "ms-swift")
    pattern = "|".join(map(re.escape, wanted.selection.train))
    return {
        "model": shlex.quote(wanted.base),
        "tuner_type": "lora",
        "lora_rank": str(wanted.r),
        "lora_alpha": str(wanted.alpha),
        "lora_dropout": str(wanted.lora.dropout),
        "target_regex": shlex.quote(f"^({pattern})$"),
    }


def _full(wanted: Export) -> dict[str, str]:
    types = "|".join(sorted({layer.type for layer in wanted.ranking.layers}))
    return {
        "model": shlex.quote(wanted.base),
        "tuner_type": "full",
        "freeze_parameters_ratio": "1",
        # Prefixes: with the dot, a layer's weight and bias and no other layer's.
        "trainable_parameters": " ".join(
            shlex.quote(f"{name}.") for name in wanted.selection.train
        ),
        "trainable_parameters_regex": shlex.quote(rf"^(?!(.+\.)?({types})\.(weight|bias)$)"),
    }


def _arguments(text: str) -> dict[str, list[str]]:
    """Parse the last command of the script: option to its values."""
    given: dict[str, list[str]] = {}
    option = ""
    for word in shlex.split(text.replace("\\\n", " "), comments=True):
        if word.startswith("--"):
            option, _, value = word[2:].partition("=")
            given[option] = [value] if value else []
        elif option and word != "$@":
            given[option].append(word)
    return given


def _one(given: Mapping[str, list[str]], option: str, default: str) -> str:
    return next(iter(given.get(option, [])), default)


def _unfrozen(
    given: Mapping[str, list[str]], layers: Sequence[Layer], parameters: Sequence[str]
) -> Matches:
    """Apply ms-swift's order: freeze by ratio, prefix and regex, then unfreeze by both latter."""
    ratio = float(_one(given, "freeze_parameters_ratio", "0"))
    if 0 < ratio < 1:
        raise UserError(
            f"--freeze_parameters_ratio {ratio:g} freezes by number of parameters, which names "
            "cannot tell: give 0 or 1 to have the file verified"
        )
    frozen_prefixes = given.get("freeze_parameters", [])
    frozen_regex = _one(given, "freeze_parameters_regex", "")
    regex = _one(given, "trainable_parameters_regex", "")
    everything = "all that is not frozen"

    def selects(entry: str, name: str) -> bool:
        if entry == everything:
            frozen = name.startswith(tuple(frozen_prefixes))
            return not frozen and not (frozen_regex and re.search(frozen_regex, name))
        if entry == regex:
            return re.search(regex, name) is not None
        return name.startswith(entry)

    entries = [*given.get("trainable_parameters", []), *([regex] if regex else [])]
    entries = entries if ratio else [everything, *entries]
    found = by_parameters(entries, selects, layers, parameters)
    return replace(found, unmatched=tuple(e for e in found.unmatched if e != everything))
