"""Full fine-tuning by a list of expressions over parameter names (Axolotl, Spectrum)."""

import re
from collections.abc import Callable, Sequence

from ila_core.export.base import Export, Matches, matches
from ila_core.models.layers import Layer

FULL = (
    "Trains the selected linear weights and their biases, embeddings and norms; the other linear "
    "weights are frozen."
)
FSDP = "Under FSDP 1, freezing needs use_orig_params: true."


def unfrozen(wanted: Export) -> list[str]:
    """Return one expression per selected layer, and one for all parameters outside of layers.

    Dots are not escaped: Axolotl takes them literally and escapes them itself; to Spectrum a dot
    matches any character, which makes no other parameter match. `[.]` is a dot to both.
    """
    types = "|".join(sorted({layer.type for layer in wanted.ranking.layers}))
    selected = [f"^{name}.(weight|bias)$" for name in wanted.selection.train]
    return [*selected, f"^(?!(.+[.])?({types})[.](weight|bias)$)"]


def by_parameters(
    entries: Sequence[str],
    selects: Callable[[str, str], bool],
    layers: Sequence[Layer],
    parameters: Sequence[str],
) -> Matches:
    """Find the layers whose weight the entries select."""
    return matches(
        "full",
        entries,
        selects,
        layers,
        names=lambda layer: (layer.parameter,),
        outside=outside(layers, parameters),
    )


def outside(layers: Sequence[Layer], parameters: Sequence[str]) -> tuple[str, ...]:
    """Return the parameters that belong to no layer: embeddings and norms."""
    owned = {layer.parameter for layer in layers} | {f"{layer.name}.bias" for layer in layers}
    return tuple(name for name in parameters if name not in owned)


def starts(entry: str, name: str) -> bool:
    """Return whether the expression matches at the beginning of the name (`re.match`)."""
    return re.match(entry, name) is not None
