"""Spectrum: its YAML, which Axolotl, SageMaker's recipes and TRL scripts read, and its JSON."""

import json
from collections import defaultdict
from collections.abc import Sequence

from ila_core.export.base import Export, Exported, Matches, commented, fields_of, refuse_lora
from ila_core.export.nearest import loss
from ila_core.export.parameter_rule import FSDP, FULL, by_parameters, starts, unfrozen
from ila_core.models.layers import Layer

FILE = "unfrozen_parameters.yaml"


class Spectrum:
    def export(self, wanted: Export) -> Exported:
        refuse_lora(wanted, "Spectrum", "it freezes parameters")
        files: dict[str, str] = {}
        notes: tuple[str, ...] = (FULL, FSDP)
        if wanted.selection.source is not None:
            path, text, note = _scores(wanted, wanted.selection.source)
            files[path], notes = text, (*notes, note)
        # Its readers take the lines that begin with `- `, so the list must not be indented.
        lines = "".join(f"- {entry}\n" for entry in unfrozen(wanted))
        body = f"{commented(wanted, notes)}unfrozen_parameters:\n{lines}"
        return Exported({FILE: body} | files, wanted.selection.train, notes)

    def reads(self, name: str, text: str) -> bool:
        return list(fields_of(name, text, ".yaml", ".yml")) == ["unfrozen_parameters"]

    def selected(self, text: str, layers: Sequence[Layer], parameters: Sequence[str]) -> Matches:
        entries = [line.split("- ")[1] for line in text.splitlines() if line.startswith("- ")]
        return by_parameters(entries, starts, layers, parameters)


def _scores(wanted: Export, source: str) -> tuple[str, str, str]:
    """Write the scores in Spectrum's format, and count how its rule's selection would differ."""
    scores = wanted.ranking.scores(source)
    layers = wanted.ranking.layers
    table = {x.name: {"snr": scores[x.name], "type": _type(x)} for x in layers}
    slug = wanted.base.replace("/", "-").replace("_", "-")
    fraction = len(wanted.selection.train) / len(layers)
    differs = loss(
        layers,
        wanted.selection.train,
        _best_of_each_type(layers, scores, fraction),
        lambda layer: layer.weights,
    )
    path = f"model_snr_results/snr_results_{slug}.json"
    note = (
        f"{path} holds the scores for Axolotl's SpectrumPlugin, which ranks within each layer type "
        f"and always trains lm_head and the embeddings: with spectrum_top_fraction: {fraction:.4f} "
        f"{differs}. The YAML is exact."
    )
    return path, json.dumps(table, indent=1) + "\n", note


def _best_of_each_type(
    layers: Sequence[Layer], scores: dict[str, float], fraction: float
) -> set[str]:
    by_type: dict[str, list[str]] = defaultdict(list)
    for layer in layers:
        by_type[_type(layer)].append(layer.name)
    chosen = {"lm_head"}
    for names in by_type.values():
        names.sort(key=lambda name: -scores[name])
        chosen.update(names[: int(len(names) * fraction)])
    return chosen


def _type(layer: Layer) -> str:
    """Return the name below the block, such as `self_attn.q_proj`."""
    return layer.name.partition(f".{layer.block}.")[2] or layer.name
