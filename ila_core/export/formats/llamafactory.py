"""LLaMA-Factory: exact for LoRA; it freezes only whole modules of the first or last blocks."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ila_core.errors import UserError
from ila_core.export.base import (
    Export,
    Exported,
    Matches,
    commented,
    fields_of,
    head_note,
    refuse_fraction,
    refuse_ranks,
)
from ila_core.export.nearest import loss, nearest_blocks
from ila_core.export.parameter_rule import by_parameters
from ila_core.export.peft_rule import ALL_LINEAR, adapted
from ila_core.models.layers import Layer

FILE = "llamafactory.yaml"
# What is no layer of a block: `norm` is a part of every norm's name, so it trains those in the
# blocks as well. LLaMA-Factory refuses a name that the model lacks, and says which there are.
OUTSIDE = ("embed_tokens", "norm")


class LlamaFactory:
    def export(self, wanted: Export) -> Exported:
        made = _lora(wanted) if wanted.method == "lora" else _freeze(wanted)
        fields, trains, notes = made
        head = {"model_name_or_path": wanted.base, "stage": "sft", "do_train": True}
        body = yaml.safe_dump({**head, **fields}, sort_keys=False, width=10**6)
        notes = ("Put these fields into your own configuration: llamafactory-cli train.", *notes)
        return Exported({FILE: commented(wanted, notes) + body}, trains, notes)

    def reads(self, name: str, text: str) -> bool:
        return bool(
            {"finetuning_type", "lora_target"} & set(fields_of(name, text, ".yaml", ".yml"))
        )

    def selected(self, text: str, layers: Sequence[Layer], parameters: Sequence[str]) -> Matches:
        fields = yaml.safe_load(text)
        if fields.get("finetuning_type", "lora") == "lora":
            return _adapted(fields, layers)
        return _unfrozen(fields, layers, parameters)


def _lora(wanted: Export) -> tuple[dict[str, object], tuple[str, ...], tuple[str, ...]]:
    refuse_ranks(wanted, "LLaMA-Factory")
    refuse_fraction(wanted, "LLaMA-Factory")
    fields = {
        "finetuning_type": "lora",
        "lora_rank": wanted.r,
        "lora_alpha": wanted.alpha,
        "lora_dropout": wanted.lora.dropout,
        "lora_target": ",".join(wanted.selection.train),
        "use_unsloth": False,
    }
    note = "use_unsloth must stay false: with it, full names match nothing, and nothing says so."
    return fields, wanted.selection.train, (note, *head_note(wanted))


def _freeze(wanted: Export) -> tuple[dict[str, object], tuple[str, ...], tuple[str, ...]]:
    layers, chosen = wanted.ranking.layers, set(wanted.selection.train)
    count, modules = nearest_blocks(layers, chosen, lambda layer: layer.weights)
    heads = [x.name for x in layers if x.block is None and x.name in chosen]
    fields = {
        "finetuning_type": "freeze",
        "freeze_trainable_layers": count,
        "freeze_trainable_modules": ",".join(modules),
        "freeze_extra_modules": ",".join([*OUTSIDE, *(h.rpartition(".")[2] for h in heads)]),
    }
    trains = tuple(_unfrozen(fields, layers, ()).layers) if modules else ()
    lost = loss(layers, chosen, trains, lambda layer: layer.weights)
    nothing_frozen = loss(layers, chosen, [x.name for x in layers], lambda layer: layer.weights)
    cannot = "LLaMA-Factory cannot freeze single layers, only whole modules of the first or last n "
    if lost.parameters and lost.parameters >= nothing_frozen.parameters:
        raise UserError(
            f"{cannot}blocks. None of these comes nearer to this selection than freezing nothing "
            f"does ({nothing_frozen}). Use --method lora, which it does exactly, or export to "
            "axolotl, spectrum, swift or trl"
        )
    said = (
        f"freeze_trainable_layers: {count} with {','.join(modules)} is nearest in parameters: "
        f"{lost}"
    )
    if lost.parameters and not wanted.approximate:
        raise UserError(
            f"{cannot}blocks; {said}. Take that with --approximate, use --method lora, or export "
            "to axolotl, spectrum, swift or trl"
        )
    note = f"Approximated: {said}." if lost.parameters else "Exact: the selection is whole modules."
    names = "freeze_extra_modules holds the names that Llama has for its embeddings and norms."
    return fields, trains, (note, names)


def _adapted(fields: Mapping[str, Any], layers: Sequence[Layer]) -> Matches:
    given = fields.get("lora_target", "all")
    target: Any = given.split(",") if isinstance(given, str) else list(given)
    target = [entry.strip() for entry in target]
    if target == ["all"]:
        target = ALL_LINEAR
    elif fields.get("use_unsloth"):
        # Unsloth knows leaf names only.
        known = adapted(
            {"r": fields.get("lora_rank"), "target_modules": [t for t in target if "." not in t]},
            layers,
        )
        lost = tuple(entry for entry in target if "." in entry)
        return Matches("lora", known.layers, known.unmatched + lost, known.ranks)
    return adapted({"r": fields.get("lora_rank"), "target_modules": target}, layers)


def _unfrozen(
    fields: Mapping[str, Any], layers: Sequence[Layer], parameters: Sequence[str]
) -> Matches:
    """Apply LLaMA-Factory's rule: a parameter trains if its name contains one of the entries."""
    if fields["finetuning_type"] == "full":
        entries = [""]
    else:
        count = int(fields.get("freeze_trainable_layers", 2))
        total = 1 + max(layer.block for layer in layers if layer.block is not None)
        blocks = range(max(0, total - count), total) if count > 0 else range(min(-count, total))
        modules = _listed(fields.get("freeze_trainable_modules", "all"))
        entries = [f".{b}.{'' if m == 'all' else m}" for m in modules for b in blocks]
        entries += _listed(fields.get("freeze_extra_modules") or "")
    return by_parameters(entries, lambda entry, name: entry in name, layers, parameters)


def _listed(given: str) -> list[str]:
    return [entry for entry in re.split(r"\s*,\s*", given.strip()) if entry]
