"""What a forward keeps: less, for the same numbers, and nothing below the lowest trained layer."""

from contextlib import contextmanager, nullcontext
from weakref import ref

import pytest
import torch
from torch import nn

from ila_core.search.gates import Gates
from ila_core.train.lora_function import fused_lora
from ila_core.train.methods import METHODS
from ila_core.train.recompute import packed_bits, recomputed, recomputing_activations, unpacked_bits
from tests.helpers import tiny
from tests.ila_core.train.test_lora_function import (
    lora_gradients,
    quantised,
    relative,
    trained,
)


@contextmanager
def less(model):
    with fused_lora(model), recomputing_activations(model):
        yield


@contextmanager
def kept_bytes(model):
    """Bytes of each storage that autograd saves within the block, those of the model left out."""
    of_model = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    found = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in of_model:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpoints", [None, True, False])
def test_the_loss_is_the_same_to_the_bit_and_gradients_to_the_order_of_a_sum(dtype, checkpoints):
    def computed(arithmetic):
        model = trained(tiny.model().to(dtype), dropout=0.3)
        if checkpoints is not None:
            model.enable_input_require_grads()
            model.activation_checkpointing_enable({"use_reentrant": checkpoints})
        return lora_gradients(model, arithmetic)

    (loss, expected), (ours, found) = computed(fused_lora), computed(less)
    assert ours == loss
    assert relative(found, expected) < 1e-6


def test_a_four_bit_base_has_the_same_gradients():
    (loss, expected), (ours, found) = (
        lora_gradients(trained(quantised(), dropout=0.3), arithmetic)
        for arithmetic in (nullcontext, less)
    )
    assert ours == pytest.approx(loss, abs=1e-6)
    assert relative(found, expected) < 1e-5


def test_whatever_trains_has_its_gradient_norms_and_base_weights_included():
    def whole(arithmetic):
        return lora_gradients(trained(dropout=0.3).requires_grad_(True), arithmetic)[1]

    assert torch.equal(whole(less), whole(fused_lora))


def test_a_gated_mlp_and_its_norm_keep_their_inputs_and_no_product():
    model, x = trained(dropout=0.3), torch.randn(3, 7, 32, requires_grad=True)
    block = model.get_base_model().model.layers[0]
    with less(model), kept_bytes(model) as kept:
        out = block.mlp(block.post_attention_layernorm(x))
    tokens, width, inner, rank = 21, 32, 64, 4
    numbers = width + 2 * inner + 3 * rank
    bits = 2 * width + inner
    scales = 3 * 4
    assert out.requires_grad
    assert sum(kept.values()) == tokens * (4 * numbers + bits // 8) + scales


def test_nothing_is_kept_below_the_lowest_trained_layer():
    base = tiny.model()
    chosen = ["model.layers.1.mlp.up_proj", "lm_head"]
    model = METHODS["lora"].attach(base, chosen, tiny.LORA, seed=0).train()
    blocks = model.get_base_model().model.layers
    seen = []

    def note(module, inputs, output=None):
        seen.append((len(kept), (output if output is not None else inputs[0]).requires_grad))

    blocks[0].register_forward_pre_hook(note)
    blocks[1].post_attention_layernorm.register_forward_hook(note)
    blocks[1].mlp.register_forward_hook(note)
    with less(model), kept_bytes(model) as kept:
        lora_gradients(model)
    *below, above = seen[-3:]  # before them, the checks of `TokenLoss`
    assert below == [(0, False), (0, False)]
    assert above[0] > 0 and above[1]


def test_fewer_trained_layers_keep_fewer_bytes():
    def held(count):
        base = tiny.model()
        names = [name for name in tiny.layers(base) if "layers" in name]
        settings = tiny.LORA.model_copy(update={"dropout": 0.3})
        model = METHODS["lora"].attach(base, names[:count], settings, seed=0).train()
        with less(model), kept_bytes(model) as kept:
            out = model.get_base_model().model(torch.zeros(2, 9, dtype=torch.long), use_cache=False)
        assert out.last_hidden_state.requires_grad  # and what was kept is still there
        return sum(kept.values())

    assert held(1) < held(4) < held(14)


def test_within_gates_the_mlp_keeps_the_outputs_of_gate_and_up_and_the_norm_its_input():
    model, x = trained(), torch.randn(3, 7, 32, requires_grad=True)
    block = model.get_base_model().model.layers[0]
    with Gates(model), kept_bytes(model) as kept:
        block.mlp(block.post_attention_layernorm(x))
    wide = [size for size in kept.values() if size > 21 * 4 * 4]
    assert sorted(wide) == [21 * 32 * 4, 21 * 64 * 4, 21 * 64 * 4]


class Unit(nn.Module):
    """A gated MLP by other names: only its activation is known."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = (nn.Linear(8, 8) for _ in range(3))
        self.act_fn = nn.SiLU()

    def forward(self, x):
        return self.three(self.act_fn(self.one(x)) * self.two(x))


def test_an_activation_elsewhere_is_made_again_too():
    unit, x = Unit().requires_grad_(False), torch.randn(5, 8, requires_grad=True)
    outputs = []
    unit.act_fn.register_forward_hook(
        lambda *given: outputs.append(ref(given[2].untyped_storage()))
    )
    whole = unit(x)
    assert outputs[-1]() is not None  # the instrument works
    with recomputing_activations(unit):
        assert "forward" not in vars(unit)
        again = unit(x)
        assert len(outputs) == 2 and outputs[-1]() is None
        (found,) = torch.autograd.grad(again.sum(), x)
    (expected,) = torch.autograd.grad(whole.sum(), x)
    assert torch.equal(found, expected)


def test_what_autocast_computed_is_made_again_as_it_was():
    norm, x = nn.LayerNorm(8).requires_grad_(False), torch.randn(5, 8, requires_grad=True)

    def gradient():
        with torch.autocast("cpu", torch.bfloat16):
            out = norm(x.bfloat16())
        return torch.autograd.grad(out.square().sum(), x)[0]  # outside of it

    expected = gradient()
    with recomputing_activations(norm):
        assert torch.equal(gradient(), expected)


def test_a_forecast_on_the_meta_device_counts_what_is_kept():
    with torch.device("meta"):
        model = trained()
        x = torch.zeros(3, 7, 32).requires_grad_()
        block = model.get_base_model().model.layers[0]
        with less(model):
            assert block.mlp(block.post_attention_layernorm(x)).requires_grad


class Foreign(nn.Module):
    """It has an activation as a gated unit has, and is called otherwise."""

    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (nn.Linear(8, 8) for _ in range(3))
        self.act_fn = nn.SiLU()

    def forward(self, x, scale):
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x)) * scale


def test_a_forward_that_is_called_otherwise_runs_itself_and_is_said_once(caplog):
    model, x = nn.Sequential(Foreign(), Foreign()), torch.randn(3, 8)
    expected = model[1](model[0](x, 2), 3)
    with caplog.at_level("INFO", "ila"):
        for _ in range(2):
            with recomputing_activations(model):
                assert torch.equal(model[1](model[0](x, 2), 3), expected)
    (said,) = caplog.messages
    assert said.startswith("Foreign keeps its own forward")


class GatedLayerNorm(nn.LayerNorm):
    def forward(self, x, gate):
        return super().forward(x) * gate


def test_a_norm_with_more_inputs_runs_itself():
    model, x = nn.Sequential(GatedLayerNorm(8)), torch.randn(3, 8)
    expected = model[0](x, x)
    with recomputing_activations(model):
        assert torch.equal(model[0](x, x), expected)


def test_a_model_comes_back_as_it_was_and_blocks_may_stand_within_one_another():
    model = trained()
    with less(model):
        inside = {name: vars(m).get("forward") for name, m in model.named_modules()}
        with less(model):
            assert inside == {name: vars(m).get("forward") for name, m in model.named_modules()}
    assert not any("forward" in vars(m) for m in model.modules())


def test_an_output_is_made_once_for_all_that_would_have_kept_it():
    calls = []

    def double(x):
        calls.append(x)
        return 2 * x

    model, x = trained(), torch.randn(2, 3, 32, requires_grad=True)
    attention = model.get_base_model().model.layers[0].self_attn
    with fused_lora(model):
        given = recomputed(double, x)
        sum(p(given).sum() for p in (attention.q_proj, attention.k_proj)).backward()
    assert len(calls) == 2
    assert x.grad is not None


@pytest.mark.parametrize("shape", [(8,), (0, 16), (3, 5, 24), (4, 6)])
def test_bits(shape):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
    packed = packed_bits(mask)
    assert packed.nbytes == mask.nbytes // (1 if shape[-1] % 8 else 8)
    assert torch.equal(unpacked_bits(packed), mask)
