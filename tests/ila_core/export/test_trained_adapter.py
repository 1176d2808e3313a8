"""An adapter by its own weights: what is missing, not asked for, not learnt, or another model's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ila_core.config import LoraSettings
from ila_core.errors import UserError
from ila_core.export.trained_adapter import CONFIG, WEIGHTS, TrainedAdapter, read_adapter
from ila_core.models.layers import Layer, layers_of
from ila_core.train.methods.lora import Lora, save_adapter
from tests.helpers import tiny

NAMES = tiny.layers(tiny.model())


@pytest.fixture
def layers() -> list[Layer]:
    return layers_of(tiny.model())


@pytest.fixture
def wanted(layers: list[Layer]) -> list[str]:
    return [layer.name for layer in layers][::2]


@pytest.fixture
def folder(tmp_path: Path, wanted: list[str]) -> Path:
    model = Lora().attach(tiny.model(), wanted, LoraSettings(r=4, alpha=8, dropout=0), 0)
    for name, tensor in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(tensor)
    save_adapter(model, tmp_path / "adapter", "acme/tiny")
    return tmp_path / "adapter"


def edited(folder: Path, change: Any) -> TrainedAdapter:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    return read_adapter(folder, NAMES)


def test_what_we_trained_holds(folder: Path, layers: list[Layer], wanted: list[str]) -> None:
    contract = read_adapter(folder, NAMES).check("it", layers, wanted)
    assert contract.breaches == []
    assert (contract.requested, contract.matched) == (len(wanted), len(wanted))
    by_shape = sum(4 * sum(layer.shape) for layer in layers if layer.name in wanted)
    assert contract.trainable_parameters == contract.expected_parameters == by_shape
    assert contract.notes == ()


def test_missing_and_unrequested_layers_are_named(
    folder: Path, layers: list[Layer], wanted: list[str]
) -> None:
    other = layers[1].name
    contract = read_adapter(folder, NAMES).check("it", layers, [*wanted[1:], other])
    assert (contract.missed, contract.unrequested) == ((other,), (wanted[0],))
    assert f"requested, but nothing trains it: {other}" in contract.breaches
    assert f"trains without having been requested: {wanted[0]}" in contract.breaches


def test_what_learnt_nothing_is_named(folder: Path, layers: list[Layer], wanted: list[str]) -> None:
    adapter = edited(
        folder, lambda t: t[f"base_model.model.{wanted[0]}.lora_B.weight"].zero_()
    )  # fmt: skip
    [breach] = adapter.check("it", layers, wanted).breaches
    assert breach == f"trains otherwise: {wanted[0]} (B is zero: nothing was learnt)"


def test_half_an_adapter_is_named(folder: Path, layers: list[Layer], wanted: list[str]) -> None:
    adapter = edited(folder, lambda t: t.pop(f"base_model.model.{wanted[0]}.lora_A.weight"))
    breaches = adapter.check("it", layers, wanted).breaches
    assert breaches[0] == f"trains otherwise: {wanted[0]} (half an adapter)"


def test_weights_that_the_configuration_does_not_have_are_said(
    folder: Path, layers: list[Layer], wanted: list[str]
) -> None:
    text = (folder / CONFIG).read_text()
    (folder / CONFIG).write_text(text.replace(wanted[0], "model.layer.0.self_attn.q_proj"))
    contract = read_adapter(folder, NAMES).check("it", layers, wanted)
    assert contract.unmatched == ("model.layer.0.self_attn.q_proj",)
    assert any("they differ in" in note for note in contract.notes)


def test_two_names_for_one_layer_are_said(
    folder: Path, layers: list[Layer], wanted: list[str]
) -> None:
    config = json.loads((folder / CONFIG).read_text())
    config["target_modules"].append(wanted[0].removeprefix("model."))
    (folder / CONFIG).write_text(json.dumps(config))
    contract = read_adapter(folder, NAMES).check("it", layers, wanted)
    assert (contract.breaches, contract.notes) == (
        [],
        (f"adapter_config.json selects by more than one entry: {wanted[0]}",),
    )


def test_tensors_in_full_are_said(folder: Path, layers: list[Layer], wanted: list[str]) -> None:
    extra = {"base_model.model.lm_head.weight": torch.ones(2, 2)}
    adapter = edited(folder, lambda t: t.update(extra))
    [note] = adapter.check("it", layers, wanted).notes
    assert note == "adapter_model.safetensors also holds, in full, lm_head.weight"


def test_another_models_adapter_is_refused(
    folder: Path, layers: list[Layer], wanted: list[str]
) -> None:
    adapter = read_adapter(folder, NAMES)
    with pytest.raises(UserError, match=rf"adapts {wanted[0]}, .*which the .* layers .* not have"):
        adapter.check("it", layers[1:], wanted)
    wider = [layer.model_copy(update={"shape": (7, 9)}) for layer in layers]
    with pytest.raises(UserError, match=r"q_proj \(32, 32\), ranked \(7, 9\)"):
        adapter.check("it", wider, wanted)


@pytest.mark.parametrize("broken", [CONFIG, WEIGHTS])
def test_what_cannot_be_read_is_said(folder: Path, broken: str) -> None:
    (folder / broken).write_bytes(b"{")
    with pytest.raises(UserError, match=r"is no PEFT adapter that can be read"):
        read_adapter(folder, NAMES)
