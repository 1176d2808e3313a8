"""Our arithmetic of LoRA and gates against the plain one: PEFT's, a hook that scales A x."""

import math
from contextlib import nullcontext

import pytest
import torch
from peft import LoraConfig, get_peft_model

from ila_core.config import AdaLoraMethod
from ila_core.data.batches import collate
from ila_core.search.gates import Gates
from ila_core.train.lora_function import adapted, fused_lora, gated
from ila_core.train.loss import TokenLoss
from ila_core.train.methods import METHODS
from ila_core.train.methods.lora import lora_layers
from tests.helpers import tiny

SCORES = [0.3 * math.sin(i) for i in range(15)]


def trained(base=None, dropout=0.0):
    base = base or tiny.model()
    settings = tiny.LORA.model_copy(update={"dropout": dropout})
    model = METHODS["lora"].attach(base, tiny.layers(base), settings, seed=0)
    generator = torch.Generator().manual_seed(1)
    for layer in lora_layers(model).values():
        weight = layer.lora_B["default"].weight
        weight.data = (torch.randn(weight.shape, generator=generator) * 0.1).to(weight)
    return model.train()


def with_values(dropout=0.0):
    """AdaLoRA on every layer, with singular values that are not 0, one of which was pruned."""
    base = tiny.model()
    settings = AdaLoraMethod(
        lr=1e-3, steps=12, r=2, initial_r=4, alpha=8, dropout=dropout, warmup=0.1, final=0.1,
        every=1, beta1=0.8, beta2=0.8, orthogonality=0.5,
    )  # fmt: skip
    model = METHODS["adalora"].prepare(base, tiny.layers(base), settings, seed=0, steps=12).model
    generator = torch.Generator().manual_seed(1)
    for layer in lora_layers(model).values():
        layer.lora_E["default"].data = torch.randn((4, 1), generator=generator)
        layer.lora_E["default"].data[1] = 0
        layer.ranknum["default"].data.fill_(3)
    return model.train()


def batch_and_targets():
    batch = collate([[row] for row in tiny.rows(8)])
    return batch, int((batch["labels"][:, 1:] != -100).sum())


def quantised():
    bitsandbytes = pytest.importorskip("bitsandbytes")
    base = tiny.model(hidden_size=64, head_dim=16)
    for name, linear in list(base.named_modules()):
        if isinstance(linear, torch.nn.Linear) and name != "lm_head":
            packed = bitsandbytes.nn.Linear4bit(
                linear.in_features,
                linear.out_features,
                bias=False,
                compute_dtype=torch.float32,
                quant_type="nf4",
            )
            packed.load_state_dict(linear.state_dict())
            # 0.50.2: where a CPU has AVX512-BF16, one forward in eval mode turns the weight
            # into a format that has no gradient, for good. CUDA has no such path.
            packed.support_avx512bf16_for_cpu = False
            base.set_submodule(name, packed.to("cpu"))
    base.is_loaded_in_4bit = True
    return base


def lora_gradients(model, arithmetic=nullcontext):
    """Loss, and the gradients of every A and B in a row."""
    batch, targets = batch_and_targets()
    torch.manual_seed(2)  # of dropout
    with arithmetic(model):
        loss = TokenLoss(model).backward(batch, targets).item()
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.cat([p.grad.flatten().float() for p in trained])
    model.zero_grad()
    return loss, gradients


def gate_gradients(model):
    batch, targets = batch_and_targets()
    with Gates(model) as gates:
        for value, score in zip(SCORES, gates.parameters.values(), strict=True):
            torch.nn.init.constant_(score, value)
        loss = TokenLoss(model).backward(batch, targets).item()
        return loss, torch.cat([score.grad for score in gates.parameters.values()])


def plain_gates(model):
    batch, _ = batch_and_targets()
    model.requires_grad_(False)
    scores, hooks = [torch.nn.Parameter(torch.tensor([v])) for v in SCORES], []
    for score, layer in zip(scores, lora_layers(model).values(), strict=True):

        def scale(module, inputs, output, score=score):
            return output * score.sigmoid().to(output.dtype)

        hooks.append(layer.lora_A["default"].register_forward_hook(scale))
    loss = model(**batch).loss
    loss.backward()
    for hook in hooks:
        hook.remove()
    return loss.item(), torch.cat([score.grad for score in scores])


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("make", [tiny.model, quantised])
def test_lora(make, dropout):
    model = trained(make(), dropout)
    (loss, expected), (ours, found) = lora_gradients(model), lora_gradients(model, fused_lora)
    assert ours == pytest.approx(loss, abs=1e-6)
    assert relative(found, expected) < 1e-5


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_adalora(dropout):
    model = with_values(dropout)
    (loss, expected), (ours, found) = lora_gradients(model), lora_gradients(model, fused_lora)
    assert ours == pytest.approx(loss, abs=1e-6)
    assert relative(found, expected) < 1e-5


def test_whatever_else_of_a_layer_trains_has_its_gradient():
    def whole(arithmetic):
        model = trained(tiny.model(attention_bias=True), dropout=0.3).requires_grad_(True)
        return lora_gradients(model, arithmetic)[1]

    assert relative(whole(fused_lora), whole(nullcontext)) < 1e-5


def test_lora_in_bfloat16_is_about_as_far_from_float32_as_the_plain_arithmetic():
    """1.3 times PEFT's float32 adapter on a bfloat16 base: A and B are rounded as well."""
    _, exact = lora_gradients(trained())
    for low in (lambda: trained().to(torch.bfloat16), lambda: trained(tiny.model().bfloat16())):
        plain = relative(lora_gradients(low())[1], exact)
        assert 0.001 < relative(lora_gradients(low(), fused_lora)[1], exact) < 2 * plain < 0.1


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_draws_the_same_dropout_twice(reentrant):
    _, expected = lora_gradients(trained(dropout=0.3), fused_lora)
    model = trained(dropout=0.3)
    model.enable_input_require_grads()
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    _, found = lora_gradients(model, fused_lora)
    assert relative(found, expected) < 1e-6


def test_layers_that_share_their_input_keep_it_once():
    model = trained(dropout=0.3)
    attention = model.get_base_model().model.layers[0].self_attn
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = torch.randn(3, 7, 32, requires_grad=True)
    with fused_lora(model), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        out = [p(x) for p in (attention.q_proj, attention.k_proj, attention.v_proj)]
    tokens, width, rank, scale = 21, 32, 4, 1
    assert len(out) == 3
    mask = width // 8
    assert sum(kept.values()) == tokens * (4 * width + 3 * mask + 3 * 4 * rank) + 3 * 4 * scale


def test_other_adapters_keep_their_arithmetic_and_a_model_comes_back_as_it_was():
    def of_peft(**kind):
        config = LoraConfig(r=4, target_modules=["q_proj"], **kind)
        return get_peft_model(tiny.model(attention_bias=True), config)

    others = [of_peft(use_dora=True), of_peft(lora_bias=True), tiny.model()]
    ours = [(of_peft(), 2), (trained(), 15), (with_values(), 15)]
    for model, replaced in [*((model, 0) for model in others), *ours]:
        with fused_lora(model):
            assert sum("forward" in vars(m) for m in model.modules()) == replaced
        assert not any("forward" in vars(m) for m in model.modules())


def several(model):
    model.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    model.base_model.set_adapter(["default", "other"])


@pytest.mark.parametrize(
    "change", [several, lambda model: model.merge_adapter(), lambda model: model.set_adapter("b")]
)
def test_an_adapter_that_is_not_alone_and_open_is_left_to_peft(change):
    model = trained()
    model.add_adapter("b", LoraConfig(r=2, target_modules=["q_proj"]))
    change(model)
    x = torch.randn(2, 3, 32)
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    expected = layer(x)
    with fused_lora(model):
        assert torch.equal(layer(x), expected)


def test_a_disabled_adapter_is_the_base():
    model, x = trained(), torch.randn(2, 3, 32)
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    with fused_lora(model):
        open_ = layer(x)
        with model.disable_adapter():
            assert torch.equal(layer(x), layer.base_layer(x))
        assert torch.equal(layer(x), open_)


@pytest.mark.parametrize("shape", [(32,), (0, 32), (2, 0, 32), (3, 2, 5, 32)])
def test_any_shape_of_input(shape):
    model, x = trained(), torch.randn(shape, requires_grad=True)
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    (expected,) = torch.autograd.grad(layer(x).sum(), x)
    with fused_lora(model):
        (found,) = torch.autograd.grad(layer(x).sum(), x)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected)


def test_gates_opened_while_an_adapter_trains_leave_its_arithmetic_as_it_was():
    model = trained(dropout=0.3)
    _, expected = lora_gradients(model, fused_lora)
    with fused_lora(model):
        with Gates(model), fused_lora(model):
            inner = {layer.forward.func for layer in lora_layers(model).values()}
        outer = {layer.forward.func for layer in lora_layers(model).values()}
        _, found = lora_gradients(model)
    assert (inner, outer) == ({gated}, {adapted})
    assert torch.equal(found, expected)


def test_gates():
    (loss, expected), (ours, found) = plain_gates(trained()), gate_gradients(trained())
    assert ours == pytest.approx(loss, abs=1e-6)
    assert relative(found, expected) < 1e-5


def test_gates_in_bfloat16_are_about_as_far_from_float32_as_the_plain_arithmetic():
    """Both adapters are there: all in bfloat16, and PEFT's own float32 on a bfloat16 base."""
    _, exact = plain_gates(trained())
    for low in (lambda: trained().to(torch.bfloat16), lambda: trained(tiny.model().bfloat16())):
        plain = relative(plain_gates(low())[1], exact)
        assert 0.001 < relative(gate_gradients(low())[1], exact) < 2 * plain < 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gate(reentrant, dtype):
    _, expected = gate_gradients(trained(tiny.model().to(dtype)))
    model = trained(tiny.model().to(dtype))
    model.enable_input_require_grads()  # as PEFT does for reentrant checkpoints
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    _, found = gate_gradients(model)
    assert relative(found, expected) < 1e-6


def test_gates_on_a_four_bit_base():
    model = trained(quantised())
    kinds = {type(layer.base_layer).__name__ for layer in lora_layers(model).values()}
    assert kinds == {"Linear", "Linear4bit"}
    (loss, expected), (ours, found) = plain_gates(model), gate_gradients(trained(quantised()))
    assert ours == pytest.approx(loss, abs=1e-6)
    assert relative(found, expected) < 1e-5


def test_nothing_of_full_width_is_kept_by_a_gated_layer():
    model = trained()
    layer = lora_layers(model)["model.layers.0.mlp.down_proj"]
    weights = {p.data_ptr() for p in model.parameters()}
    kept = []

    def keep(tensor):
        kept.extend([tensor.shape] if tensor.data_ptr() not in weights else [])
        return tensor

    x = torch.randn(3, 7, 64, requires_grad=True)
    with Gates(model), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        layer(x).sum().backward()
    assert x.grad is not None
    assert (21, 4) in kept and all(math.prod(shape) <= 21 * 4 for shape in kept)
