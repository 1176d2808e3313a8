"""Tensors of experts in exports, and adapters of them read back."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ila_core.config import LoraSettings
from ila_core.errors import UserError
from ila_core.export.base import Export
from ila_core.export.formats import EXPORTERS, NAMES_PARAMETERS, export
from ila_core.export.trained_adapter import CONFIG, read_adapter
from ila_core.models.layers import Layer, layers_of
from ila_core.train.methods.lora import Lora, lora_layers, save_adapter
from tests.helpers.chosen import case
from tests.ila_core.train.test_experts import ATTENTION, DOWN, KINDS, UP, base_of, experts_of

LORA = LoraSettings(r=4, alpha=8, dropout=0)


def saved(kind: str, names: list[str], folder: Path, ranks: dict[str, int] | None = None) -> Path:
    model = Lora().attach(base_of(kind), names, LORA, 0, ranks)
    for layer in lora_layers(model).values():
        torch.nn.init.ones_(layer.lora_B["default"].weight)
    save_adapter(model, folder, "acme/tiny")
    return folder


def read(folder: Path, layers: list[Layer], wanted: list[str]) -> list[str]:
    adapter = read_adapter(folder, [layer.name for layer in layers])
    contract = adapter.check("it", layers, wanted)
    assert contract.trainable_parameters == adapter.parameters and contract.notes == ()
    return contract.breaches


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_experts_holds(kind: str, tmp_path: Path) -> None:
    layers = layers_of(base_of(kind))
    names = [layer.name for layer in layers]
    assert read(saved(kind, names, tmp_path / "all"), layers, names) == []
    experts = experts_of(base_of(kind))
    assert read(saved(kind, experts, tmp_path / "experts"), layers, experts) == []
    assert read(saved(kind, experts[1::2], tmp_path / "some"), layers, experts[1::2]) == []


def test_what_is_missing_or_of_another_model_is_named(tmp_path: Path) -> None:
    layers = layers_of(base_of())
    folder = saved("mixtral", [UP, ATTENTION], tmp_path / "it")
    (missing, unrequested, parameters) = read(folder, layers, [DOWN, ATTENTION])
    assert f"nothing trains it: {DOWN}" in missing and f"requested: {UP}" in unrequested
    assert "parameters of layers train" in parameters
    other = [layer.model_copy(update={"shape": (4, 90, 32)}) if layer.name == UP else layer
             for layer in layers]  # fmt: skip
    with pytest.raises(UserError, match=r"other shapes .*gate_up_proj \(4, 96, 32\), ranked"):
        read(folder, other, [UP, ATTENTION])


def test_a_foreign_adapter_names_its_experts_by_the_end(tmp_path: Path) -> None:
    layers = layers_of(base_of())
    experts = [layer.name for layer in layers if layer.holds_experts]
    folder = saved("mixtral", experts, tmp_path / "it")
    config = json.loads((folder / CONFIG).read_text())
    ends = ["experts.down_proj", "experts.gate_up_proj"]
    (folder / CONFIG).write_text(json.dumps(config | {"target_parameters": ends}))
    assert read(folder, layers, experts) == []


def wanted() -> Export:
    return replace(case("experts").export("lora"), lora=LORA)


def linear_alone() -> Export:
    every = case("experts")
    names = {x.name for x in every.ranking.layers if not x.holds_experts}
    return replace(every.export("lora", every.selected(names)), lora=LORA)


@pytest.mark.parametrize("ranks", [None, {"model.layers.1.mlp.experts.down_proj": 2}])
def test_peft_adapts_exactly_the_exported_selection(ranks: dict[str, int] | None) -> None:
    from peft import LoraConfig, get_peft_model

    every = case("experts")
    chosen = every.selected({x.name for x in every.ranking.layers if x.block in (1, 3)})
    given = replace(every.export("lora", chosen), lora=LORA, ranks=ranks)
    fields = json.loads(export("peft", given).files[CONFIG])
    assert len(fields["target_parameters"]) == 4 and len(fields["target_modules"]) == 8
    found = EXPORTERS["peft"].selected(json.dumps(fields), every.ranking.layers, ())
    assert tuple(found.layers) == chosen.train and found.unmatched == ()
    fields.pop("base_model_name_or_path")
    with pytest.warns() if ranks else warnings.catch_warnings():  # PEFT 0.21 overlooks parameters
        model = get_peft_model(every.model(), LoraConfig(**fields))
    expected = {name: (ranks or {}).get(name, LORA.r) for name in chosen.train}
    assert {n: layer.r["default"] for n, layer in lora_layers(model).items()} == expected
    assert found.ranks == expected


@pytest.mark.parametrize("to", sorted(EXPORTERS.keys() - {*NAMES_PARAMETERS, "spectrum"}))
def test_trainers_that_name_modules_refuse_experts(to: str) -> None:
    with pytest.raises(UserError, match=r"names modules, and .*experts.*: give --to peft or trl"):
        export(to, wanted())
    assert export(to, replace(linear_alone(), approximate=True)).files


@pytest.mark.parametrize("to", ["axolotl", "spectrum", "swift", "llamafactory"])
def test_full_fine_tuning_elsewhere_would_not_freeze_experts(to: str) -> None:
    with pytest.raises(UserError, match="names modules, and"):
        export(to, replace(linear_alone(), method="full"))


def test_an_export_has_no_dropout_on_experts() -> None:
    with pytest.raises(UserError, match=r"lora\.dropout: given 0\.1, but PEFT .*; give 0"):
        export("peft", replace(wanted(), lora=LORA.model_copy(update={"dropout": 0.1})))
    for to in ("json", "csv"):
        assert export(to, wanted()).trains == wanted().selection.train
