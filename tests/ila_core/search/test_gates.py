import math

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from ila_core.config import LoraSettings, OptimizerSettings, Schedule, Stage2Settings
from ila_core.data.batches import collate
from ila_core.errors import CheckError
from ila_core.search.gates import Gates, learn_gates
from ila_core.train.loop import train
from ila_core.train.loss import TokenLoss
from ila_core.train.methods import METHODS
from ila_core.train.methods.lora import lora_layers, save_adapter
from tests.helpers import tiny
from tests.helpers.gated import check_open_and_closed

STAGE2 = Stage2Settings(
    rows="train",
    batches=25,
    batch_size=8,
    initial_score=0.0,
    optimizer="sgd",
    lr=2.0,
    weight_decay=0.0,
    schedule="constant",
    max_grad_norm=0.0,
)


@pytest.fixture(scope="module")
def pretrained():
    """A base that knows one step width; alignment then teaches it the others."""
    model = tiny.model()
    known = [row for row in tiny.rows(400, seed=1) if row.input_ids[0] == 1]
    settings = OptimizerSettings(batch_size=16, weight_decay=0, warmup_ratio=0, max_grad_norm=1.0)
    train(model, known, schedule=Schedule(lr=5e-3, steps=60), optimizer=settings, seed=0)
    return model.state_dict()


@pytest.fixture(scope="module")
def adapter(pretrained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    model = METHODS["lora"].attach(
        base_of(pretrained), tiny.layers(tiny.model()), tiny.LORA, seed=0
    )
    schedule = Schedule(lr=1e-2, steps=80)
    optimizer = tiny.OPTIMIZER.model_copy(update={"batch_size": 16})
    train(model, tiny.rows(400), schedule=schedule, optimizer=optimizer, seed=0)
    save_adapter(model, folder)
    return folder


def base_of(pretrained):
    model = tiny.model()
    model.load_state_dict(pretrained)
    return model


def trained(dtype=torch.float32, settings=tiny.LORA):
    """A random adapter with B away from zero."""
    model = METHODS["lora"].attach(tiny.model(), tiny.layers(tiny.model()), settings, seed=0)
    generator = torch.Generator().manual_seed(1)
    for layer in lora_layers(model).values():
        weight = layer.lora_B["default"].weight
        weight.data = torch.randn(weight.shape, generator=generator) * 0.1
    return model.to(dtype)


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.arange(12)[None]).logits


def test_open_is_stage1_and_closed_is_the_base_exactly():
    model = trained()
    with model.disable_adapter():
        base = logits(model)
    check_open_and_closed(model, logits, base)


def test_gates_leave_no_trace():
    model = trained(settings=LoraSettings(r=4, alpha=8, dropout=0.1))
    for block in model.get_base_model().model.layers:
        block.self_attn.attention_dropout = 0.2
    before = [(name, p.requires_grad) for name, p in model.named_parameters()]
    with Gates(model) as gates:
        required = [name for name, p in model.named_parameters() if p.requires_grad]
        assert len(required) == len(gates.scores) == 15
        assert all(name.endswith("ila_score") for name in required)
        assert all(p.shape == (1,) for p in gates.parameters.values())
        model.train()
        assert torch.equal(logits(model), logits(model))  # every dropout is off
    assert [(name, p.requires_grad) for name, p in model.named_parameters()] == before
    assert not torch.equal(logits(model), logits(model))
    assert {b.self_attn.attention_dropout for b in model.get_base_model().model.layers} == {0.2}


def test_gate_gradients_equal_finite_differences(monkeypatch):
    def rms_norm(self, x):  # Llama's own computes in float32, which drowns the differences
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

    monkeypatch.setattr(LlamaRMSNorm, "forward", rms_norm)
    model = trained(torch.float64)
    batch = collate([[row] for row in tiny.rows(6)])

    def loss():
        hidden = model.get_base_model()(**{k: v for k, v in batch.items() if k != "labels"}).logits
        targets = batch["labels"][:, 1:].flatten()
        return torch.nn.functional.cross_entropy(hidden[:, :-1].flatten(0, 1), targets)

    with Gates(model, initial_score=0.3) as gates:
        TokenLoss(model).backward(batch, int((batch["labels"][:, 1:] != -100).sum()))
        for score in gates.parameters.values():
            with torch.no_grad():
                h = 1e-5
                above = (score.add_(h), loss())[1]
                below = (score.sub_(2 * h), loss())[1]
                score.add_(h)
            expected = (above - below).item() / (2 * h)
            assert score.grad.item() == pytest.approx(expected, rel=1e-6, abs=1e-10)


def test_learns_scores_and_leaves_the_base(pretrained, adapter):
    base = base_of(pretrained)
    result = learn_gates(base, adapter, tiny.rows(400), STAGE2, seed=0)
    assert base.state_dict().keys() == pretrained.keys()
    assert all(torch.equal(pretrained[k], v) for k, v in base.state_dict().items())
    assert list(result.scores) == list(result.first_gradient) == tiny.layers(base)
    assert len(result.losses) == 25
    steps = [step for step, _ in result.history]
    assert len(steps) == 20 and steps[-1] == 25
    assert result.history[-1][1] == result.scores
    assert result.losses[-1] < result.losses[0]
    again = learn_gates(base, adapter, tiny.rows(400), STAGE2, seed=0)
    assert again.scores == result.scores
    assert [result.scores[name] for name in GOLDEN] == pytest.approx(list(GOLDEN.values()), abs=0.1)


# A refactor that moves these is seen; the tolerance is for other processors.
GOLDEN = {
    "lm_head": 3.06,
    "model.layers.0.mlp.gate_proj": 2.04,
    "model.layers.1.self_attn.v_proj": 1.43,
    "model.layers.1.self_attn.k_proj": 0.28,
}


def test_positive_control(pretrained, adapter, tmp_path):
    """Noise of 3 standard deviations in B of a random quarter of the layers (DESIGN section 4)."""
    from ila_core.train.methods.lora import load_adapter

    model = load_adapter(base_of(pretrained), adapter)
    generator = torch.Generator().manual_seed(0)
    names = tiny.layers(tiny.model())
    corrupted = {names[i] for i in torch.randperm(15, generator=generator)[:4].tolist()}
    for name in corrupted:
        weight = lora_layers(model)[name].lora_B["default"].weight
        noise = torch.randn(weight.shape, generator=generator)
        weight.data = 3 * weight.std().detach() * noise
    save_adapter(model, tmp_path)
    scores = learn_gates(base_of(pretrained), tmp_path, tiny.rows(400), STAGE2, seed=0).scores
    pairs = [(scores[b], scores[g]) for b in corrupted for g in scores if g not in corrupted]
    assert sum(bad < good for bad, good in pairs) / len(pairs) >= 0.9


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_refusals_name_the_layer(tmp_path, optimizer):
    settings = STAGE2.model_copy(update={"optimizer": optimizer, "batches": 2})

    def learn(change, rows=None):
        model = trained()
        change(lora_layers(model))
        save_adapter(model, tmp_path)
        learn_gates(tiny.model(), tmp_path, rows or tiny.rows(), settings, seed=0)

    def zero(*names):
        def change(layers):
            for name in names or layers:
                layers[name].lora_B["default"].weight.data.zero_()

        return change

    def poison(layers):
        layers["lm_head"].lora_A["default"].weight.data[0, 0] = math.nan

    def silence(layers):  # B is not zero, but A x is
        layers["lm_head"].lora_A["default"].weight.data.zero_()

    with pytest.raises(CheckError, match="untrained: B = 0 in every layer"):
        learn(zero())
    with pytest.raises(CheckError, match=r"B = 0 in model.layers.0.mlp.up_proj"):
        learn(zero("model.layers.0.mlp.up_proj"))
    with pytest.raises(CheckError, match="not finite in lm_head"):
        learn(poison)
    with pytest.raises(CheckError, match="no gradient ever reached the gate of lm_head"):
        learn(silence)
