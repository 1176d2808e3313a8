"""A trained PEFT adapter, read from its weights: the layers it adapts, with rank and size.

read_adapter(Path("adapter"), [layer.name for layer in layers]).check(layers, wanted)  # Contract
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ila_core.data.json_files import read_object
from ila_core.errors import UserError, listed
from ila_core.export.base import Matches
from ila_core.export.peft_rule import adapted, rank_of
from ila_core.export.verify import Contract, check_configuration
from ila_core.models.layers import Layer, Shape

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_WRAPPED = re.compile(r"(\.base_layer)+$")
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
    expert_rank: int | None = None
    """Rank of each expert, whose matrices lie side by side in A and B; `None`: no experts."""

    @property
    def rank(self) -> int:
        return self.expert_rank or (self.inputs[0] if self.inputs else 0)

    @property
    def shape(self) -> Shape | None:
        """Shape (out, in) of the layer; `None` when A or B is missing or their ranks differ.

        Of experts (experts, out, in), which a model may keep as (experts, in, out).
        """
        if self.inputs is None or self.outputs is None or self.inputs[0] != self.outputs[1]:
            return None
        shape = self.outputs[0], self.inputs[1]
        return shape if self.expert_rank is None else (self.inputs[0] // self.rank, *shape)

    def fits(self, layer: Shape | None) -> bool:
        """Whether it is an adapter of a layer of this shape."""
        if self.shape is None or layer is None:
            return False
        return self.shape == layer or (len(layer) == 3 and self.shape == (layer[0], *layer[:0:-1]))


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
        others = [p for p in self.parts.values() if p.shape and not p.fits(shapes[p.name])]
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


def read_adapter(folder: Path, layers: Sequence[str]) -> TrainedAdapter:
    """Read the adapter in a folder.

    Args:
        folder: with its configuration and its weights.
        layers: the model's layers in order, by which those that are tensors of experts are told
            apart: the weights have the name of the module that holds several.

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
    experts = _experts(parts, config, layers)
    found = [
        Part(
            experts.get(name, name),
            of.get("A"),
            of.get("B"),
            learnt.get(name, False),
            rank_of(config, experts[name]) if name in experts else None,
        )
        for name, of in parts.items()
    ]
    return TrainedAdapter(config, {part.name: part for part in found}, tuple(others))


def _experts(
    stored: Iterable[str], config: Mapping[str, Any], layers: Sequence[str]
) -> dict[str, str]:
    """The layer of each stored name that is one of PEFT's wrappers around a module of experts.

    The wrapper of the module's first parameter is the innermost, `.base_layer` for each around it.
    """
    targets = config.get("target_parameters") or []
    wrappers: dict[str, list[str]] = defaultdict(list)
    for name in stored:
        wrappers[_WRAPPED.sub("", name)].append(name)
    found: dict[str, str] = {}
    for module, names in wrappers.items():
        own = [n for n in layers if n.rpartition(".")[0] == module]
        adapted = [n for n in own if any(f".{n}".endswith(f".{target}") for target in targets)]
        if len(adapted) == len(names):
            innermost = sorted(names, key=len, reverse=True)
            found |= dict(zip(innermost, adapted, strict=True))
    return found
