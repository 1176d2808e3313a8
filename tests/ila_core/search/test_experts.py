"""Scorers, mask curves and controls on tensors of experts; what is refused in plan."""

from __future__ import annotations

import pytest
import torch

from ila_core.config import AdaLoraMethod, FullMethod, LoraMethod, LoraSettings
from ila_core.errors import UserError
from ila_core.models.layers import Layer, layers_of
from ila_core.search.control import plant_noise
from ila_core.search.masked_loss import MaskedLoss
from ila_core.search.scorers import SCORERS, check_scorer
from ila_core.search.scorers.lora_norm import update_norm
from ila_core.search.scorers.weight_snr import signal_to_noise
from ila_core.train.experts import check_experts
from ila_core.train.forecast import Forecast
from ila_core.train.held_out_loss import held_out_loss
from ila_core.train.methods.lora import lora_layers
from tests.helpers import tiny
from tests.helpers.aligned import material
from tests.helpers.chosen import EXPERTS, case
from tests.ila_core.train.test_experts import DOWN, KINDS, UP, adapted, base_of

ROWS = tiny.rows(16)


@pytest.fixture(params=KINDS)
def model(request):
    base = base_of(request.param)
    return adapted(base, [layer.name for layer in layers_of(base)])


@pytest.fixture(params=KINDS)
def layers(request) -> list[Layer]:
    return layers_of(base_of(request.param))


@pytest.mark.parametrize("name", sorted(SCORERS.keys() - {"lora_drop"}))
def test_every_other_scorer_scores_experts(name):
    base = base_of()
    layers = layers_of(base)
    model = adapted(base, [layer.name for layer in layers])
    weights = {n: p.clone() for n, p in model.state_dict().items()}
    found = SCORERS[name].score(material(model, layers=layers, rows=ROWS, batches=2))
    assert list(found.scores) == [layer.name for layer in layers]
    assert all(found.scores[n] != 0 for n in (UP, DOWN))
    assert all(torch.equal(weights[n], p) for n, p in model.state_dict().items())


def test_the_norm_is_that_of_the_whole_update(model):
    for layer in lora_layers(model).values():
        delta = layer.get_delta_weight("default")
        assert update_norm(layer) == pytest.approx(delta.norm().item(), rel=1e-5)


def test_base_weights_of_experts_are_scored_one_by_one():
    base = base_of()
    found = SCORERS["weight_snr"].score(material(base, layers=layers_of(base))).scores[DOWN]
    own = base.model.layers[0].mlp.experts.down_proj
    assert found == pytest.approx(sum(map(signal_to_noise, own.detach())) / 4)


def test_a_closed_adapter_of_experts_is_the_base_there(model):
    names = list(lora_layers(model))
    masked = MaskedLoss(model, ROWS, eval_batch=8)
    with model.disable_adapter():
        base = held_out_loss(model, ROWS, eval_batch=8).loss
    assert masked.loss(names) == pytest.approx(base, abs=1e-6)
    experts = [name for name in names if "experts" in name or "_linear" in name]
    others = [name for name in names if name not in experts]
    losses = {masked.loss(closed) for closed in ((), experts, others)}
    assert len(losses) == 3


def test_noise_can_be_planted_in_experts(model):
    before = {n: layer.lora_B["default"].weight.clone() for n, layer in lora_layers(model).items()}
    planted = plant_noise(model, seed=1, fraction=0.9)
    after = {n: layer.lora_B["default"].weight for n, layer in lora_layers(model).items()}
    assert {n for n in before if not torch.equal(before[n], after[n])} == set(planted)


DROPOUT = {"lr": 1e-3, "steps": 4, "r": 2, "alpha": 4, "dropout": 0.1}
ADALORA = AdaLoraMethod(
    **(DROPOUT | {"dropout": 0.0, "initial_r": 4}), warmup=0.2, final=0.2, every=1, beta1=0.85,
    beta2=0.85, orthogonality=0.5,
)  # fmt: skip


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("lora", LoraSettings(r=2, alpha=4, dropout=0.1), r"it\.dropout: given 0\.1.*; give 0, or"),
        ("lora", LoraMethod(**DROPOUT), r"it\.dropout: given 0\.1, but PEFT .*; give 0, or leave"),
        ("adalora", ADALORA, "method: given 'adalora', but of all methods lora and full train"),
        ("qlora", LoraMethod(**(DROPOUT | {"dropout": 0})), "method: given 'qlora', .*; give lora"),
    ],
)
def test_methods_that_train_no_experts_are_refused(layers, method, settings, message):
    with pytest.raises(UserError, match=message) as caught:
        check_experts(layers, method, settings, "it")
    assert "`exclude:`" in str(caught.value)
    dense = [layer for layer in layers if not layer.holds_experts]
    check_experts(dense, method, settings, "it")
    check_experts(layers, "lora", LoraSettings(r=2, alpha=4, dropout=0), "it")
    check_experts(layers, "full", FullMethod(lr=1e-3, steps=2), "it")


def test_what_reads_a_layers_input_is_refused(layers):
    with pytest.raises(UserError, match=r"'lora_drop', but it reads the input .* give one of ila"):
        check_scorer("lora_drop", layers)
    check_scorer("lora_drop", [layer for layer in layers if not layer.holds_experts])
    for name in SCORERS.keys() - {"lora_drop"}:
        check_scorer(name, layers)


def test_memory_and_time_are_not_forecast():
    settings = LoraMethod(**(DROPOUT | {"dropout": 0.0}))
    layers = [layer for layer in case("experts").ranking.layers if not layer.holds_experts]
    with pytest.raises(UserError, match=r"model experts has experts, .*; give a limit in layers"):
        Forecast.of(EXPERTS, layers, "lora", settings, batch_size=2, micro_batch=2, length=8)
