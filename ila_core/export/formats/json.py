"""JSON: the whole selection with every layer's scores, and its source."""

import json
from collections.abc import Sequence
from dataclasses import replace

from ila_core.export.base import Export, Exported, Matches, fields_of, matches
from ila_core.export.layer_table import layer_rows
from ila_core.models.layers import Layer

FILE = "selection.json"


class Json:
    def export(self, wanted: Export) -> Exported:
        ranking, chosen = wanted.ranking, wanted.selection
        document: dict[str, object] = {
            "schema_version": 1,
            "base": wanted.base,
            "model": ranking.model,
            "architecture": ranking.architecture,
            "ranking": ranking.key,
            "scorer": ranking.scorer,
            "data_keys": ranking.data_keys,
            "settings": ranking.settings,
            "versions": ranking.versions,
            "policy": chosen.policy,
            "source": chosen.source,
            "details": chosen.details,
            "method": wanted.method,
            "lora": wanted.lora.model_dump() if wanted.method == "lora" else None,
            "ranks": wanted.other_ranks,
            "train": list(chosen.train),
            "frozen": list(chosen.frozen),
            "layers": layer_rows(wanted),
        }
        note = "`train` and `frozen` are full module names, in layer order."
        return Exported({FILE: json.dumps(document, indent=1) + "\n"}, chosen.train, (note,))

    def reads(self, name: str, text: str) -> bool:
        return {"train", "frozen", "policy"} <= set(fields_of(name, text, ".json"))

    def selected(self, text: str, layers: Sequence[Layer], parameters: Sequence[str]) -> Matches:
        fields = json.loads(text)
        lora = fields.get("lora")
        found = matches("full" if lora is None else "lora", fields["train"], str.__eq__, layers)
        if lora is None:
            return found
        ranks = {name: fields.get("ranks", {}).get(name, lora["r"]) for name in found.layers}
        return replace(found, ranks=ranks)
