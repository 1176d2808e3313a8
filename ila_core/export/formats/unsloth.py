"""Unsloth: arguments of `FastLanguageModel.get_peft_model`, which are leaf names and blocks."""

import json
from collections.abc import Sequence
from dataclasses import replace

from ila_core.errors import UserError
from ila_core.export.base import Export, Exported, Matches, fields_of, refuse_full, refuse_ranks
from ila_core.export.nearest import loss, nearest_grid
from ila_core.export.peft_rule import adapted
from ila_core.models.layers import Layer
from ila_core.selection.select import lora_parameters

FILE = "unsloth.json"
_IN_FULL = ("lm_head", "embed_tokens")
"""Target modules that Unsloth trains in full, without an adapter."""


class Unsloth:
    def export(self, wanted: Export) -> Exported:
        refuse_full(wanted, "Unsloth", "its configuration names adapters only")
        refuse_ranks(wanted, "Unsloth")
        layers, chosen = wanted.ranking.layers, wanted.selection.train

        def cost(layer: Layer) -> int:
            return lora_parameters([layer], wanted.r)

        types, blocks = nearest_grid(layers, frozenset(chosen), cost)
        trains = tuple(x.name for x in layers if x.type in types and x.block in blocks)
        lost = loss(layers, chosen, trains, cost)
        said = f"the nearest grid is {len(types)} layer types in {len(blocks)} blocks: {lost}"
        if not trains or (lost.parameters and not wanted.approximate):
            raise UserError(
                "Unsloth trains the same layer types in every block that it trains, with no "
                f"adapter on lm_head, and this selection is no such grid; {said}. Take that with "
                "--approximate, or export to peft, trl, axolotl, llamafactory or swift"
            )
        arguments = {
            "r": wanted.r,
            "lora_alpha": wanted.alpha,
            "lora_dropout": wanted.lora.dropout,
            "bias": "none",
            "target_modules": list(types),
            "layers_to_transform": list(blocks),
        }
        how = "FastLanguageModel.get_peft_model(model, **json.load(open('unsloth.json')))"
        notes: tuple[str, ...] = (f"model = {how}",)
        notes += (f"Approximated: {said}.",) if lost.parameters else ()
        return Exported({FILE: json.dumps(arguments, indent=1) + "\n"}, trains, notes)

    def reads(self, name: str, text: str) -> bool:
        fields = fields_of(name, text, ".json")
        return "target_modules" in fields and "peft_type" not in fields

    def selected(self, text: str, layers: Sequence[Layer], parameters: Sequence[str]) -> Matches:
        fields = json.loads(text)
        given = fields.get("target_modules") or []
        entries = [given] if isinstance(given, str) else list(given)
        leaves = [e for e in entries if "." not in e and e not in _IN_FULL]
        found = adapted({**fields, "target_modules": leaves}, layers)
        in_full = {
            x.name: "in full, without an adapter"
            for x in layers
            if x.type in _IN_FULL and x.type in entries
        }
        trains = found.layers | {name: (name.rpartition(".")[2],) for name in in_full}
        return replace(
            found,
            layers={x.name: trains[x.name] for x in layers if x.name in trains},
            # Full names match nothing.
            unmatched=found.unmatched + tuple(e for e in entries if "." in e),
            ranks=found.ranks | {n: fields.get("r", 8) for n in in_full},
            odd=in_full,
        )
