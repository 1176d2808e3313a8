"""A trained PEFT adapter, read from its weights: the layers it adapts, with rank and size.

read_adapter(Path("adapter")).check(layers, wanted)  # Contract
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ila_core.errors import UserError, listed
from ila_core.export.base import Matches
from ila_core.export.peft_rule import adapted
from ila_core.export.verify import Contract, check_configuration
from ila_core.keys import read_object
from ila_core.models.layers import Layer

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_KEY = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([ABE])(?:\.\w+)?(?:\.weight)?")


@dataclass(frozen=True)
class Part:
    """The adapter of one layer."""

    name: str
    inputs: tuple[int, ...] | None
    """Shape of A, (rank, in); `None` when A is missing."""
    outputs: tuple[int, ...] | None
    """Shape of B, (out, rank); `None` when B is missing."""
    learnt: bool
    """Whether B is not zero; B starts at zero, so that the layer equals the base model's."""

    @property
    def rank(self) -> int:
        return self.inputs[0] if self.inputs else 0

    @property
    def shape(self) -> tuple[int, int] | None:
        """Shape (out, in) of the layer; `None` when A or B is missing or their ranks differ."""
        if self.inputs is None or self.outputs is None or self.inputs[0] != self.outputs[1]:
            return None
        return self.outputs[0], self.inputs[1]


@dataclass(frozen=True)
class TrainedAdapter:
    config: dict[str, object]
    parts: dict[str, Part]
    others: tuple[str, ...]
    """Names of other tensors: weights that were trained, or only saved, in full."""

    @property
    def parameters(self) -> int:
        sizes = ((p.inputs, p.outputs) for p in self.parts.values())
        return sum(shape[0] * shape[1] for pair in sizes for shape in pair if shape is not None)

    def layers_called(self, names: Sequence[str]) -> list[Layer]:
        """Return the named layers, with the shapes that this adapter implies."""
        known = {name: part.shape or (0, 0) for name, part in self.parts.items()}
        return [
            Layer(name=n, block=None, type=n.rpartition(".")[2], shape=known.get(n, (0, 0)))
            for n in names
        ]

    def check(
        self,
        target: str,
        layers: Sequence[Layer],
        wanted: Sequence[str],
        ranks: Mapping[str, int] | None = None,
    ) -> Contract:
        """Check the adapter against the layers that it should train.

        Args:
            ranks: rank of each layer when a policy set them; by default the adapter's own.

        Raises:
            UserError: when names or shapes show that it belongs to another model.
        """
        shapes = {layer.name: layer.shape for layer in layers}
        unknown = [name for name in self.parts if name not in shapes]
        if unknown:
            raise UserError(
                f"{target} adapts {listed(unknown)}, which the {len(layers)} layers of the ranking "
                "do not have: give the ranking of the adapter's own base model"
            )
        others = [p for p in self.parts.values() if p.shape not in (None, shapes[p.name])]
        if others:
            said = listed([f"{p.name} {p.shape}, ranked {shapes[p.name]}" for p in others])
            raise UserError(
                f"{target} has other shapes than the ranking's layers: {said}. Give the ranking of "
                "the adapter's own base model"
            )
        by_config = adapted(self.config, layers)
        odd = {p.name: "half an adapter" for p in self.parts.values() if p.shape is None}
        odd |= {
            p.name: "B is zero: nothing was learnt"
            for p in self.parts.values()
            if p.shape is not None and not p.learnt
        }
        found = Matches(
            "lora",
            dict.fromkeys(self.parts, (WEIGHTS,)),
            by_config.unmatched,
            ranks={name: part.rank for name, part in self.parts.items()},
            odd=odd,
        )
        contract = check_configuration(target, found, layers, wanted, ranks)
        read = {"trainable_parameters": self.parameters, "notes": self._notes(by_config.layers)}
        return contract.model_copy(update=read)

    def _notes(self, by_config: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        notes = []
        odd = sorted(by_config.keys() ^ self.parts.keys())
        if odd:
            notes.append(
                f"{CONFIG} would adapt {len(by_config)} layers, {WEIGHTS} holds "
                f"{len(self.parts)}; they differ in {listed(odd)}"
            )
        # Two names for one layer are still one adapter, which is what the weights say.
        twice = [name for name, entries in by_config.items() if len(entries) > 1]
        if twice:
            notes.append(f"{CONFIG} selects by more than one entry: {listed(twice)}")
        if self.others:
            notes.append(f"{WEIGHTS} also holds, in full, {listed(list(self.others))}")
        return tuple(notes)


def read_adapter(folder: Path) -> TrainedAdapter:
    """Read the adapter in a folder.

    Raises:
        UserError: when there is none, or its files cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    parts: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
    learnt: dict[str, bool] = {}
    others = []
    try:
        config = read_object(folder / CONFIG)
        with safe_open(str(folder / WEIGHTS), framework="pt") as file:
            matches = {key: _KEY.fullmatch(key) for key in file.keys()}  # noqa: SIM118
            singular = {m[1] for m in matches.values() if m and m[2] == "E"}
            for key, match in matches.items():
                if match is None:
                    others.append(key.removeprefix("base_model.model."))
                    continue
                name, half = match[1], match[2]
                parts[name][half] = tuple(file.get_slice(key).get_shape())
                # AdaLoRA starts with E = 0 and B at random, and may take a layer's last rank away.
                if half == "E" or (half == "B" and name not in singular):
                    weight = file.get_tensor(key)
                    learnt[name] = bool(weight.any()) or 0 in weight.shape
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"{folder} is no PEFT adapter that can be read ({CONFIG}, {WEIGHTS}): {error}"
        ) from error
    return TrainedAdapter(
        config,
        {n: Part(n, of.get("A"), of.get("B"), learnt.get(n, False)) for n, of in parts.items()},
        tuple(others),
    )
