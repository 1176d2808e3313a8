"""The selection contract, checked on adapters and configurations of other trainers.

`ila_core.train.contract` checks our own trainings while they run; this module reads files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pydantic import Field

from ila_core.config import Frozen
from ila_core.errors import listed
from ila_core.export.base import Matches
from ila_core.models.layers import Layer


class Contract(Frozen):
    """The layers that a target trains, compared with the layers that it should train."""

    target: str
    requested: int
    matched: int
    missed: tuple[str, ...] = ()
    """Requested layers that do not train."""
    unrequested: tuple[str, ...] = ()
    twice: tuple[str, ...] = ()
    """Layers that more than one entry selects."""
    unmatched: tuple[str, ...] = ()
    """Entries that select no layer."""
    odd: dict[str, str] = Field(default_factory=dict)
    """Layers that train in another way than requested, and how."""
    trainable_parameters: int
    expected_parameters: int
    gradient_seen: int | None = None
    """Number of requested layers with a nonzero gradient; `None` when it was not recorded."""
    frozen_tensors: int | None = None
    frozen_identical: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def breaches(self) -> list[str]:
        """Breaches of the contract as messages, with the layers' names."""
        said = [
            ("requested, but nothing trains it", self.missed),
            ("trains without having been requested", self.unrequested),
            ("selected by more than one entry", self.twice),
            ("selects no layer", self.unmatched),
            ("trains otherwise", [f"{name} ({how})" for name, how in self.odd.items()]),
        ]
        found = [f"{what}: {listed(list(names))}" for what, names in said if names]
        if self.matched != self.requested and not self.missed:
            found.append(f"{self.matched} of {self.requested} requested layers trained")
        if self.trainable_parameters != self.expected_parameters:
            found.append(
                f"{self.trainable_parameters:,} parameters of layers train, "
                f"{self.expected_parameters:,} expected"
            )
        if self.gradient_seen is not None and self.gradient_seen != self.requested:
            found.append(f"a gradient was seen on {self.gradient_seen} of {self.requested} layers")
        if self.frozen_identical != self.frozen_tensors:
            found.append(
                f"{self.frozen_identical} of {self.frozen_tensors} frozen tensors are as they were"
            )
        return found


def check_configuration(
    target: str,
    found: Matches,
    layers: Sequence[Layer],
    wanted: Sequence[str],
    ranks: Mapping[str, int] | None = None,
) -> Contract:
    """Compare the layers that a configuration selects with those that it should select.

    Args:
        ranks: rank of each layer when a policy set them; by default the configuration's own.
    """
    chosen = set(wanted)
    known = {**found.ranks, **(ranks or {})}
    asked = replace(
        found, layers=dict.fromkeys(wanted, ()), ranks={name: _rank(name, known) for name in wanted}
    )
    # Expressions over parameters may name embeddings and norms, which no ranking knows.
    elsewhere = found.method == "full"
    notes: tuple[str, ...] = ()
    if elsewhere and found.unmatched:
        notes = (f"these entries select no layer: {listed(list(found.unmatched))}",)
    return Contract(
        target=target,
        requested=len(chosen),
        matched=len(chosen & set(found.layers)),
        missed=tuple(name for name in wanted if name not in found.layers),
        unrequested=tuple(name for name in found.layers if name not in chosen),
        twice=tuple(name for name, entries in found.layers.items() if len(entries) > 1),
        unmatched=() if elsewhere else found.unmatched,
        odd=found.odd,
        trainable_parameters=found.trainable_parameters(layers),
        expected_parameters=asked.trainable_parameters(layers),
        notes=notes,
    )


def _rank(name: str, ranks: Mapping[str, int]) -> int:
    """Return the layer's rank, or the most common rank if the layer has none."""
    if name in ranks:
        return ranks[name]
    values = list(ranks.values())
    return max(values, key=values.count, default=0)
