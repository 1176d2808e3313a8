"""Scorers against what defines them, on a tiny model that stage 1 has taught something."""

from __future__ import annotations

import math

import pytest
import torch

from ila_core.data.batches import collate
from ila_core.errors import CheckError, UserError
from ila_core.models.layers import Layer
from ila_core.search.ranking import order
from ila_core.search.scorers import ILA, SCORER_NAMES, SCORERS
from ila_core.search.scorers.weight_snr import signal_to_noise
from ila_core.search.scoring import ScoreResult, tokens_of
from ila_core.train.held_out_loss import held_out_loss
from ila_core.train.methods import METHODS
from ila_core.train.methods.lora import lora_layers
from tests.helpers import aligned, tiny
from tests.helpers.aligned import LAYERS, ROWS, material


@pytest.fixture(scope="module")
def model():
    return aligned.stage1_model()


def held_out(model, rows):
    return held_out_loss(model, rows, eval_batch=8).loss


def test_names() -> None:
    assert SCORER_NAMES[0] == ILA and set(SCORER_NAMES[1:]) == set(SCORERS)
    assert len(set(SCORER_NAMES)) == 11


@pytest.mark.parametrize("name", SCORERS)
def test_every_scorer_scores_every_layer_and_leaves_the_model_as_it_was(name) -> None:
    model = aligned.stage1_model()
    for dropout in model.modules():
        if isinstance(dropout, torch.nn.Dropout):
            dropout.p = 0.3
    lora_layers(model)["lm_head"].lora_A["default"].weight.requires_grad_(True)
    model.train()
    model.get_base_model().lm_head.eval()

    def state():
        modes = [module.training for module in model.modules()]
        hooks = [len(module._forward_hooks) for module in model.modules()]
        dropouts = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)]
        scaling = [dict(layer.scaling) for layer in lora_layers(model).values()]
        parameters = [(n, p.requires_grad, p.grad) for n, p in model.named_parameters()]
        return modes, hooks, dropouts, scaling, parameters

    before, weights = state(), {n: p.clone() for n, p in model.state_dict().items()}
    found = SCORERS[name].score(material(model))
    assert state() == before
    assert all(torch.equal(weights[n], p) for n, p in model.state_dict().items())
    assert list(found.scores) == [layer.name for layer in LAYERS]
    assert SCORERS[name].score(material(model)) == found
    assert (found.cost_tokens > 0) == (SCORERS[name].needs == "rows")
    assert (found.remainder is not None) == (name == "integrated_gradients")


@pytest.mark.parametrize("name", [n for n, s in SCORERS.items() if s.needs == "rows"])
def test_the_micro_batch_changes_no_score(name, model) -> None:
    whole, parts = (SCORERS[name].score(material(model, micro=m)).scores for m in (8, 3))
    assert parts == pytest.approx(whole, rel=1e-3, abs=1e-5)


def test_costs_count_tokens_and_a_forward_pass_is_a_third(model) -> None:
    n = tokens_of(ROWS)
    given = material(model, batches=8)  # 8 batches of 8: every row once
    cost = {name: scorer.score(given).cost_tokens for name, scorer in SCORERS.items()}
    assert cost["gate_gradient"] == cost["fisher"] == n
    assert cost["lora_drop"] == pytest.approx(n / 3)
    assert cost["integrated_gradients"] == pytest.approx(n * 5 / 3)
    assert cost["leave_one_out"] == pytest.approx(16 * n / 3)


def test_size_ranks_the_smallest_matrix_last() -> None:
    layers = [
        Layer(name=f"model.layers.0.{kind}", block=0, type=kind, shape=shape)
        for kind, shape in {"q_proj": (8, 8), "k_proj": (2, 8), "up_proj": (24, 8)}.items()
    ]
    scores = SCORERS["size"].score(material(layers=layers, rows=())).scores
    assert order(scores, layers)[-1] == "model.layers.0.k_proj"
    assert scores["model.layers.0.up_proj"] == 192


def test_random_depends_on_seed_and_name_alone() -> None:
    score = SCORERS["random"].score
    all_layers, other = score(material()).scores, score(material(seed=1)).scores
    assert score(material(layers=LAYERS[3:])).scores == dict(list(all_layers.items())[3:])
    assert all(other[name] != all_layers[name] for name in other)
    assert len(set(all_layers.values())) == len(LAYERS)


def test_lora_norm_is_the_norm_of_the_update(model) -> None:
    scores = SCORERS["lora_norm"].score(material(model)).scores
    for name, layer in lora_layers(model).items():
        assert scores[name] == pytest.approx(layer.get_delta_weight("default").norm().item())


def test_lora_drop_is_the_mean_norm_of_the_adapters_output(model) -> None:
    scores = SCORERS["lora_drop"].score(material(model, batches=8)).scores
    name = "model.layers.1.mlp.up_proj"
    layer, seen = lora_layers(model)[name], []
    hook = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for row in ROWS:  # one by one: no padding anywhere
            model(input_ids=torch.tensor([row.input_ids]))
    hook.remove()
    outputs = torch.cat([x[0] for x in seen]) @ layer.get_delta_weight("default").T
    assert scores[name] == pytest.approx(outputs.norm(dim=1).mean().item(), rel=1e-4)


def test_weight_snr_by_hand_and_what_it_makes_of_noise() -> None:
    weight = torch.diag(torch.tensor([10.0, 4, 3, 2, 1]))
    edge = (4 - 2) / 1.349 * 2
    assert 2 < edge < 3
    assert signal_to_noise(weight) == pytest.approx((10 + 4 + 3) / (2 + 1) / 10)
    assert signal_to_noise(torch.zeros(3, 2)) == 0
    assert signal_to_noise(torch.eye(3)) == 3  # nothing below the edge
    torch.manual_seed(0)
    noise, (u, v) = torch.randn(64, 128), (torch.linalg.qr(torch.randn(n, 8))[0] for n in (64, 128))
    planted = noise + 10 * 128**0.5 * u @ v.T
    # Spectrum's own formula, and its weakness: pure noise comes out above a strong signal in it.
    assert signal_to_noise(noise) > 2 * signal_to_noise(planted)
    assert signal_to_noise(2 * noise) == pytest.approx(signal_to_noise(noise) / 2, rel=1e-3)


def test_kappa_is_the_inverse_condition_number_of_the_base_weight(model) -> None:
    from peft.helpers import find_kappa_target_modules

    base = aligned.base_model()
    with torch.no_grad():
        base.model.layers[0].self_attn.q_proj.weight.copy_(torch.diag(torch.linspace(1, 4, 32)))
        base.model.layers[0].self_attn.k_proj.weight.zero_()
    found = SCORERS["kappa"].score(material(base)).scores
    assert found["model.layers.0.self_attn.q_proj"] == pytest.approx(0.25)
    assert found["model.layers.0.self_attn.k_proj"] == 0
    base = aligned.base_model()
    scores = SCORERS["kappa"].score(material(base)).scores
    assert SCORERS["kappa"].score(material(model)).scores == scores  # the adapter is not in it
    theirs = find_kappa_target_modules(base, top_p=1.0, show_progress=False)["target_modules"]
    assert theirs == order(scores, LAYERS)


def test_fisher_is_the_squared_gradient(model) -> None:
    found = SCORERS["fisher"].score(material(model, batches=1, batch_size=64)).scores
    batch = collate([[row] for row in ROWS])
    fresh = aligned.stage1_model()
    name = "model.layers.0.self_attn.v_proj"
    layer = lora_layers(fresh)[name]
    weights = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    for weight in weights:
        weight.requires_grad_(True)
    fresh(**batch).loss.backward()
    expected = sum(weight.grad.square().sum().item() for weight in weights)
    assert found[name] == pytest.approx(expected, rel=1e-3)


def test_gate_gradient_is_the_slope_at_half_open(model) -> None:
    given = material(model, batches=2, batch_size=32)
    found = SCORERS["gate_gradient"].score(given).scores
    name, h = "model.layers.1.self_attn.o_proj", 0.02

    def loss(gamma):
        for other, layer in lora_layers(model).items():
            layer.scaling["default"] *= gamma if other == name else 0.5
        value = sum(held_out(model, rows) for rows in batches) / 2
        for other, layer in lora_layers(model).items():
            layer.scaling["default"] /= gamma if other == name else 0.5
        return value

    batches = given.batches()
    assert sorted(id(row) for rows in batches for row in rows) == sorted(map(id, ROWS))
    slope = (loss(0.5 + h) - loss(0.5 - h)) / (2 * h)
    assert found[name] == pytest.approx(-slope, rel=0.02)


def test_integrated_gradients_add_up_to_what_the_update_gains(model) -> None:
    opened = held_out(model, ROWS)
    with model.disable_adapter():
        closed = held_out(model, ROWS)
    assert closed - opened > 0.5
    found = SCORERS["integrated_gradients"].score(material(model, batches=24, batch_size=64))
    assert sum(found.scores.values()) == pytest.approx(closed - opened, rel=0.01)
    assert found.remainder == pytest.approx(closed - opened - sum(found.scores.values()), abs=1e-4)
    rough = SCORERS["integrated_gradients"].score(material(model, batches=4, batch_size=8))
    assert rough.remainder is not None
    assert abs(rough.remainder) > abs(found.remainder or 0)


def test_leave_one_out_is_the_model_without_that_adapter(model) -> None:
    found = SCORERS["leave_one_out"].score(material(model, batches=8)).scores
    opened = held_out(model, ROWS)
    for name in ("lm_head", "model.layers.0.mlp.down_proj"):
        layer = lora_layers(model)[name]
        scaling = layer.scaling["default"]
        layer.scaling["default"] = 0.0
        assert found[name] == pytest.approx(held_out(model, ROWS) - opened, abs=1e-6)
        layer.scaling["default"] = scaling


def test_refusals(model) -> None:
    part = METHODS["lora"].attach(tiny.model(), ["lm_head"], tiny.LORA, seed=0)
    for name in ("lora_norm", "lora_drop", "fisher", "integrated_gradients", "leave_one_out"):
        with pytest.raises(CheckError, match=r"no adapter on model.layers.0.self_attn.q_proj"):
            SCORERS[name].score(material(part))
        if SCORERS[name].needs == "rows":
            with pytest.raises(UserError, match="fewer than one batch"):
                SCORERS[name].score(material(model, rows=ROWS[:3]))
    untrained = METHODS["lora"].attach(tiny.model(), tiny.layers(tiny.model()), tiny.LORA, seed=0)
    for name, scorer in SCORERS.items():
        if scorer.needs in ("adapter", "rows"):
            with pytest.raises(CheckError, match="the adapter is untrained"):
                SCORERS[name].score(material(untrained))
    with pytest.raises(CheckError, match="not finite in b"):
        ScoreResult(scores={"a": 1.0, "b": math.nan}, cost_tokens=0)
