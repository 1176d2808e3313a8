"""CSV: one row per layer, for a spreadsheet or a custom trainer."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace

from ila_core.export.base import Export, Exported, Matches, matches
from ila_core.export.layer_table import layer_rows
from ila_core.models.layers import Layer

FILE = "layers.csv"


class Csv:
    def export(self, wanted: Export) -> Exported:
        rows = []
        for row in layer_rows(wanted):
            scores = {f"score {name}": score for name, score in row.pop("scores").items()}
            shape = "x".join(map(str, row.pop("shape")))
            why = row.pop("why")
            rows.append(row | {"shape": shape} | scores | {"why": why})
        file = io.StringIO()
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        note = "`trained` is 1 for the selected layers; `rank` is LoRA's there, and empty in full."
        return Exported({FILE: file.getvalue()}, wanted.selection.train, (note,))

    def reads(self, name: str, text: str) -> bool:
        return name.endswith(".csv") and {"name", "trained"} <= set(_reader(text).fieldnames or ())

    def selected(self, text: str, layers: Sequence[Layer], parameters: Sequence[str]) -> Matches:
        trained = [row for row in _reader(text) if row["trained"] == "1"]
        ranks = {row["name"]: int(row["rank"]) for row in trained if row.get("rank")}
        found = matches(
            "lora" if ranks else "full", [row["name"] for row in trained], str.__eq__, layers
        )
        return replace(found, ranks=ranks)


def _reader(text: str) -> csv.DictReader[str]:
    return csv.DictReader(io.StringIO(text))
