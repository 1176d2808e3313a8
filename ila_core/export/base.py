"""A selection as another trainer's configuration, and that trainer's rule to read it back.

    exported = EXPORTERS["peft"].export(Export(ranking, selection, "lora", lora, base="org/model"))
    EXPORTERS["peft"].selected(exported.files["adapter_config.json"], ranking.layers, ())

One rule both writes and verifies: what a file selects is asked of the consumer's rule, never of the
code that wrote the file.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import yaml

from ila_core.config import LoraSettings
from ila_core.errors import UserError, listed
from ila_core.models.layers import Layer
from ila_core.search.ranking import Ranking
from ila_core.selection.select import lora_parameters
from ila_core.selection.selection import Selection

Training = Literal["lora", "full"]
"""`full` trains the selected linear weights and their biases, embeddings and norms."""


@dataclass(frozen=True)
class Export:
    """What is asked for."""

    ranking: Ranking
    selection: Selection
    method: Training
    lora: LoraSettings
    base: str
    """Hub id or folder of the base model."""
    revision: str | None = None
    """Hub commit of the base model; `None` for a folder, and where it is not known."""
    ranks: Mapping[str, int] | None = None
    """LoRA rank per layer; `None`: `lora.r` everywhere."""
    approximate: bool = False
    """Whether a selection that the consumer cannot express may be rounded, with its loss stated."""

    @property
    def chosen(self) -> list[Layer]:
        """The layers that are to train."""
        train = set(self.selection.train)
        return [layer for layer in self.ranking.layers if layer.name in train]

    @property
    def other_ranks(self) -> dict[str, int]:
        """The layers whose rank is not `lora.r`."""
        given = self.ranks or {}
        return {n: given[n] for n in self.selection.train if given.get(n, self.lora.r) != self.r}

    @property
    def other_alphas(self) -> dict[str, float]:
        """alpha / r is the same everywhere, so that a rank does not change an update's scale."""
        return {n: whole(self.alpha * rank / self.r) for n, rank in self.other_ranks.items()}

    @property
    def r(self) -> int:
        return self.lora.r

    @property
    def alpha(self) -> float:
        return whole(self.lora.alpha)

    @property
    def title(self) -> str:
        """The selection in one line, with where it comes from."""
        chosen = self.selection
        source = f" on {chosen.source}" if chosen.source else ""
        return (
            f"{len(chosen.train)} of {len(self.ranking.layers)} layers of {self.base}, "
            f"policy {chosen.policy}{source}, ranking {self.ranking.key}"
        )


@dataclass(frozen=True)
class Exported:
    files: dict[str, str]
    """Path below the folder to text; the first one holds the selection."""
    trains: tuple[str, ...]
    """The layers that it trains: the selection, unless that was approximated."""
    notes: tuple[str, ...]
    """What is lost, and what must be known to use it."""


@dataclass(frozen=True)
class Matches:
    """What a configuration selects, by its consumer's own rule."""

    method: Training
    layers: dict[str, tuple[str, ...]]
    """Each layer that trains, in layer order, to the entries that select it."""
    unmatched: tuple[str, ...]
    """Entries that select nothing."""
    ranks: dict[str, int] = field(default_factory=dict)
    """LoRA rank of each layer that trains."""
    odd: dict[str, str] = field(default_factory=dict)
    """Layers that train in another way than asked, and in which."""
    outside: tuple[str, ...] = ()
    """Parameters of no layer that train too."""

    def trainable_parameters(self, layers: Sequence[Layer]) -> int:
        """Count the parameters of the layers that train: adapters, or weights."""
        chosen = [layer for layer in layers if layer.name in self.layers]
        if self.method == "full":
            return sum(layer.weights for layer in chosen)
        return sum(lora_parameters([layer], self.ranks[layer.name]) for layer in chosen)


class Exporter(Protocol):
    def export(self, wanted: Export) -> Exported:
        """The consumer's files.

        Raises:
            UserError: it cannot express what is wanted.
        """

    def reads(self, name: str, text: str) -> bool:
        """Whether a file, by its name and fields, is a configuration of this consumer."""

    def selected(self, text: str, layers: Sequence[Layer], parameters: Sequence[str]) -> Matches:
        """What the consumer would train, given the model's layers and its other parameters."""


def whole(number: float) -> float:
    """An integral float as an int: several trainers parse `lora_alpha` as one."""
    return int(number) if float(number).is_integer() else number


def refuse_ranks(wanted: Export, consumer: str) -> None:
    """For consumers that have no `rank_pattern`."""
    if wanted.other_ranks:
        raise UserError(
            f"{consumer} has one LoRA rank for all layers, and {len(wanted.other_ranks)} layers "
            f"have another than {wanted.r}: {listed(list(wanted.other_ranks))}. Export to peft, "
            "trl or axolotl, or choose a policy without ranks"
        )


def refuse_full(wanted: Export, consumer: str, why: str) -> None:
    """For consumers that cannot freeze single layers."""
    if wanted.method == "full":
        raise UserError(
            f"{consumer} cannot train a selection in full: {why}. Export to spectrum, axolotl, "
            "swift or trl with --method full, or use --method lora"
        )


def refuse_lora(wanted: Export, consumer: str, why: str) -> None:
    """For consumers that know no adapters."""
    if wanted.method == "lora":
        raise UserError(
            f"{consumer} has no adapters: {why}. Give --method full, or export to peft, trl, "
            "axolotl, llamafactory, swift or unsloth"
        )


def refuse_fraction(wanted: Export, consumer: str) -> None:
    """For consumers that read `lora_alpha` as a whole number."""
    if not wanted.lora.alpha.is_integer():
        raise UserError(
            f"{consumer} reads lora_alpha as a whole number, given {wanted.alpha:g}: give a whole "
            "--alpha"
        )


def head_note(wanted: Export) -> tuple[str, ...]:
    """What an adapter outside the blocks, on `lm_head`, needs to work."""
    heads = [x.name for x in wanted.ranking.layers if x.block is None]
    chosen = [name for name in heads if name in wanted.selection.train]
    if not chosen or wanted.method == "full":
        return ()
    named = " and ".join(chosen)
    return (
        f"{named} gets an adapter. A loss that multiplies by its weight itself (Liger's and Cut "
        "Cross Entropy's fused linear losses) passes that adapter by: leave them off. Save with "
        "`save_pretrained(..., save_embedding_layers=False)`, or PEFT stores the base's own "
        f"{named} beside the adapter. Where a base ties it to the input embeddings, clone it "
        "first: an adapter on a tied weight trains, but merges wrongly.",
    )


def fields_of(name: str, text: str, *suffixes: str) -> dict[str, Any]:
    """Return the fields of a file in JSON or YAML that ends so; none of any other file."""
    if not name.endswith(suffixes):
        return {}
    found = json.loads(text) if name.endswith(".json") else yaml.safe_load(text)
    return found if isinstance(found, dict) else {}


def commented(wanted: Export, notes: Sequence[str]) -> str:
    """The title and the notes as a header of `#` lines."""
    return "".join(f"# {line}\n" for line in (f"ILA: {wanted.title}.", *notes))


def matches(
    method: Training,
    entries: Sequence[str],
    selects: Callable[[str, str], bool],
    layers: Sequence[Layer],
    names: Callable[[Layer], Sequence[str]] = lambda layer: (layer.name,),
    outside: Sequence[str] = (),
) -> Matches:
    """Apply `selects(entry, name)` to the names a layer answers to, and to those outside."""
    by_layer = {
        layer.name: tuple(e for e in entries if any(selects(e, name) for name in names(layer)))
        for layer in layers
    }
    trains = {name: found for name, found in by_layer.items() if found}
    used = {entry for found in trains.values() for entry in found}
    others = tuple(name for name in outside if any(selects(e, name) for e in entries))
    used |= {e for e in entries if any(selects(e, name) for name in others)}
    return Matches(method, trains, tuple(e for e in entries if e not in used), outside=others)
