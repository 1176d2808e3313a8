"""Axolotl: the part of its YAML that selects the layers to train."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import yaml

from ila_core.errors import UserError
from ila_core.export.base import Export, Exported, Matches, commented, fields_of, head_note
from ila_core.export.parameter_rule import FSDP, FULL, by_parameters, unfrozen
from ila_core.export.peft_rule import ALL_LINEAR, adapted
from ila_core.models.layers import Layer

FILE = "axolotl.yaml"
_OURS = {"lora_target_modules", "lora_target_linear", "unfrozen_parameters"}
_TO_PEFT = {
    "lora_r": "r",
    "lora_target_modules": "target_modules",
    "lora_exclude_modules": "exclude_modules",
    "lora_modules_to_save": "modules_to_save",
    "lora_rank_pattern": "rank_pattern",
    "peft_layers_to_transform": "layers_to_transform",
    "peft_layers_pattern": "layers_pattern",
}
_ROWS = re.compile(r"(.+)\[(\d*)(?:(:)(\d*))?\]")


class Axolotl:
    def export(self, wanted: Export) -> Exported:
        lora = wanted.method == "lora"
        fields = _lora(wanted) if lora else _full(wanted)
        notes = head_note(wanted) if lora else (FULL, FSDP)
        if wanted.other_ranks:
            notes += ("lora_rank_pattern and lora_alpha_pattern need an Axolotl that has them.",)
        body = yaml.safe_dump({"base_model": wanted.base, **fields}, sort_keys=False, width=4096)
        notes = ("Put these fields into your own Axolotl configuration.", *notes)
        return Exported({FILE: commented(wanted, notes) + body}, wanted.selection.train, notes)

    def reads(self, name: str, text: str) -> bool:
        fields = fields_of(name, text, ".yaml", ".yml")
        # With nothing beside `unfrozen_parameters` it is Spectrum's file.
        return bool(_OURS & set(fields)) and len(fields) > 1

    def selected(self, text: str, layers: Sequence[Layer], parameters: Sequence[str]) -> Matches:
        fields = yaml.safe_load(text)
        if fields.get("adapter"):
            return _adapted(fields, layers)
        return _unfrozen(list(fields.get("unfrozen_parameters") or ()), layers, parameters)


def _lora(wanted: Export) -> dict[str, object]:
    fields = {
        "adapter": "lora",
        "lora_r": wanted.r,
        "lora_alpha": wanted.alpha,
        "lora_dropout": wanted.lora.dropout,
        "lora_target_modules": list(wanted.selection.train),
    }
    if wanted.other_ranks:
        fields["lora_rank_pattern"] = wanted.other_ranks
        fields["lora_alpha_pattern"] = wanted.other_alphas
    return fields


def _full(wanted: Export) -> dict[str, object]:
    return {
        "unfrozen_parameters": unfrozen(wanted),
        # Axolotl refuses the two together otherwise: no gradient would reach what is frozen first.
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    }


def _adapted(fields: Mapping[str, object], layers: Sequence[Layer]) -> Matches:
    config = {ours: fields[theirs] for theirs, ours in _TO_PEFT.items() if fields.get(theirs)}
    if not fields.get("lora_target_linear"):
        return adapted(config, layers)
    every = adapted({**config, "target_modules": ALL_LINEAR}, layers)
    if not config.get("target_modules"):
        return every
    listed = adapted(config, layers)
    entries = {
        layer.name: listed.layers.get(layer.name, ()) + every.layers.get(layer.name, ())
        for layer in layers
    }
    return replace(
        listed,
        layers={name: found for name, found in entries.items() if found},
        ranks=every.ranks | listed.ranks,
    )


def _unfrozen(
    entries: Sequence[str], layers: Sequence[Layer], parameters: Sequence[str]
) -> Matches:
    patterns = {entry: _Pattern(entry) for entry in entries}
    found = by_parameters(entries, lambda e, name: patterns[e].matches(name), layers, parameters)
    odd = {}
    for layer in layers:
        chosen = [patterns[entry] for entry in found.layers.get(layer.name, ())]
        # Without a range among them, all rows train.
        ranges = [p.rows for p in chosen if p.rows is not None]
        rows = layer.shape[0]
        covered = {row for start, stop in ranges for row in range(start, min(stop or rows, rows))}
        if ranges and len(covered) < rows:
            odd[layer.name] = f"{len(covered):,} of its {rows:,} rows"
    return replace(found, odd=odd)


class _Pattern:
    """An expression in which dots are literal, and an optional range of rows to train."""

    def __init__(self, entry: str) -> None:
        ranged = _ROWS.fullmatch(entry)
        expression = ranged[1] if ranged else entry
        self.rows: tuple[int, int | None] | None = None
        if ranged:
            start = int(ranged[2] or 0)
            stop = int(ranged[4]) if ranged[4] else None
            self.rows = (start, stop if ranged[3] else start + 1)
        try:
            self._regex = re.compile(re.sub(r"\.(?!\+)", r"\\.", expression))
        except re.error as error:
            raise UserError(f"unfrozen_parameters: {entry!r} is no expression: {error}") from error

    def matches(self, name: str) -> bool:
        return self._regex.match(name) is not None
