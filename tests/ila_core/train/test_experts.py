"""Tensors of experts as layers: adapters, gates, full training, checkpoints, merging."""

from __future__ import annotations

import gc
import json
from contextlib import nullcontext
from weakref import ref

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora.layer import _LoraFactorsProxy
from transformers import AutoConfig, AutoModelForCausalLM

from ila_core.config import FullMethod, LoraMethod, Schedule, Stage1Settings, Stage2Settings
from ila_core.data.batches import collate
from ila_core.errors import CheckError, UserError
from ila_core.models.layers import layers_of
from ila_core.search.gates import Gates, learn_gates
from ila_core.search.stage1 import learn_adapter
from ila_core.train.checkpoints import CheckpointFolder
from ila_core.train.contract import tensor_digest
from ila_core.train.loop import TrainRuntime
from ila_core.train.loss import TokenLoss
from ila_core.train.merge import folded, merged, worst_difference
from ila_core.train.methods import METHODS
from ila_core.train.methods.lora import load_adapter, lora_layers
from ila_core.train.recompute import recomputing_activations
from ila_core.train.selected import train_selected
from tests.helpers import tiny
from tests.helpers.architectures import architecture
from tests.helpers.gated import check_open_and_closed

KINDS = ("mixtral", "olmoe", "qwen3_moe", "gpt_oss", "jetmoe")
EXPERTS = "model.layers.0.mlp.experts"
UP, DOWN = f"{EXPERTS}.gate_up_proj", f"{EXPERTS}.down_proj"
ATTENTION = "model.layers.1.self_attn.q_proj"
LORA = LoraMethod(lr=1e-2, steps=4, r=2, alpha=4, dropout=0.0)
METHOD = {"lora": LORA, "full": FullMethod(lr=1e-3, steps=4)}
STAGE1 = Stage1Settings(lora=tiny.LORA, optimizer=tiny.OPTIMIZER, stability=tiny.STABILITY)
STAGE2 = Stage2Settings(
    rows="train", batches=3, batch_size=8, initial_score=0.0, optimizer="sgd", lr=1.0,
    weight_decay=0.0, schedule="constant", max_grad_norm=0.0,
)  # fmt: skip


def base_of(kind="mixtral", **more):
    torch.manual_seed(0)
    fields = architecture(kind)
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    return AutoModelForCausalLM.from_config(config, **more)


def experts_of(model):
    return [layer.name for layer in layers_of(model) if layer.holds_experts]


def adapted(model, names):
    """With a random adapter, B away from zero."""
    found = METHODS["lora"].attach(model, names, tiny.LORA, seed=0)
    generator = torch.Generator().manual_seed(1)
    for layer in lora_layers(found).values():
        weight = layer.lora_B["default"].weight
        weight.data = torch.randn(weight.shape, generator=generator).to(weight.dtype) * 0.1
    return found


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(12)[None]).logits


def tuned(model, method, names, folder, **more):
    return train_selected(
        model, names, tiny.rows(16), method=method, settings=METHOD[method],
        schedule=Schedule(lr=METHOD[method].lr, steps=4), optimizer=tiny.OPTIMIZER, stability=None,
        seed=0, folder=folder, base_name="tiny", **{"runtime": None, **more},
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_open_is_stage1_and_closed_is_the_base_exactly(kind):
    model = base_of(kind)
    base = logits(model)
    model = adapted(model, experts_of(model))
    check_open_and_closed(model, logits, base)


@pytest.mark.parametrize("kind", KINDS)
def test_gate_gradients_at_experts_equal_finite_differences(kind, monkeypatch):
    batch = collate([[row] for row in tiny.rows(4)])
    names = [*experts_of(base_of(kind)), "lm_head"]
    narrow = adapted(base_of(kind), names)
    with Gates(narrow, initial_score=0.3) as gates:  # by the grouped products of a training
        TokenLoss(narrow).backward(batch, int((batch["labels"][:, 1:] != -100).sum()))
        trained = {name: score.grad.item() for name, score in gates.parameters.items()}
    _compute_in_the_weights_precision(monkeypatch)
    model = adapted(base_of(kind, experts_implementation="eager").double(), names)
    with Gates(model, initial_score=0.3) as gates:
        assert list(gates.parameters) == names

        def loss():
            return model(input_ids=batch["input_ids"], labels=batch["labels"]).loss

        loss().backward()
        for name, score in gates.parameters.items():
            values, h = [], 1e-5
            for step in (h, -h):
                with torch.no_grad():
                    score += step
                    values.append(loss().item())
                    score -= step
            assert score.grad.abs() > 1e-7, name
            difference = (values[0] - values[1]) / (2 * h)
            assert score.grad.item() == pytest.approx(difference, rel=1e-5, abs=1e-9), name
            assert trained[name] == pytest.approx(difference, rel=1e-3, abs=1e-7), name


def _compute_in_the_weights_precision(monkeypatch):
    """Norms and routers compute in float32, which drowns the differences."""
    own, softmax = torch.Tensor.to, torch.nn.functional.softmax

    def to(tensor, *given, **named):
        narrow = torch.float32 in (*given, named.get("dtype"))
        return tensor if narrow and tensor.dtype == torch.float64 else own(tensor, *given, **named)

    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(torch.Tensor, "float", lambda tensor: tensor.to(torch.float32))
    monkeypatch.setattr(
        torch.nn.functional, "softmax", lambda x, dim=-1, dtype=None, **_: softmax(x, dim=dim)
    )


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss"])
@pytest.mark.parametrize("gated", [False, True])
def test_folded_experts_are_not_kept_for_the_backward_pass(kind, gated, monkeypatch):
    names = experts_of(base_of(kind))
    ids = torch.arange(24)[None]
    own, made = _LoraFactorsProxy.forward, []

    def fold(proxy, weight):
        made.append(ref(folded := own(proxy, weight)))
        return folded

    monkeypatch.setattr(_LoraFactorsProxy, "forward", fold)

    def gradients(recompute):
        model = adapted(base_of(kind), names)
        with Gates(model, 0.3) if gated else nullcontext():
            made.clear()
            with recompute(model):
                loss = model(input_ids=ids, labels=ids).loss
            gc.collect()
            alive = sum(folded() is not None for folded in made)
            loss.backward()
            return alive, [p.grad for p in model.parameters() if p.requires_grad]

    _, again = gradients(recomputing_activations)
    monkeypatch.setattr("ila_core.search.gates.recomputing_activations", lambda _: nullcontext())
    kept, expected = gradients(lambda _: nullcontext())
    alive, found = gradients(recomputing_activations)
    assert (kept, alive) == (len(names) - 1, 0)  # below the first one nothing needs a gradient
    for gradient, same, other in zip(found, again, expected, strict=True):
        assert torch.equal(gradient, same)
        assert torch.allclose(gradient, other, rtol=1e-4, atol=1e-7) and other.any()


@pytest.mark.parametrize("method", METHOD)
@pytest.mark.parametrize("names", [[DOWN], [UP, DOWN], [UP, ATTENTION]], ids=str)
def test_trains_the_selected_experts_and_nothing_else(method, names, tmp_path):
    base = base_of()
    before = {n: tensor_digest(p) for n, p in base.named_parameters()}
    start = logits(base)
    _, verified, _ = tuned(base, method, names, tmp_path / "out")
    shapes = {layer.name: layer for layer in layers_of(base)}
    own = {n: METHOD[method].parameters(shapes[n].shape) for n in names}
    if DOWN in own:
        assert own[DOWN] == (2 * 4 * (32 + 48) if method == "lora" else 4 * 32 * 48)
    moved = {n for n, p in base.named_parameters() if tensor_digest(p) != before[n]}
    if method == "lora":
        assert verified.trainable_parameters == sum(own.values())
        assert not moved and torch.equal(logits(base), start)
    else:
        beside = {n for n in before if "norm" in n or "embed" in n}
        assert moved - beside == {n if n in (UP, DOWN) else f"{n}.weight" for n in names}
    assert verified.matched == verified.gradient_seen == len(names)
    assert verified.frozen_identical == verified.frozen_tensors
    loaded = METHODS[method].load(base_of(), tmp_path / "out")
    assert not torch.equal(logits(loaded), start)


@pytest.mark.parametrize("method", METHOD)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_trains_in_bfloat16(kind, method, tmp_path):
    base = base_of(kind).to(torch.bfloat16)
    names = experts_of(base)[1:3]
    result, verified, _ = tuned(base, method, names, tmp_path / "out")
    assert verified.gradient_seen == 2 and result.losses[-1] < result.losses[0]
    loaded = METHODS[method].load(base_of(kind).to(torch.bfloat16), tmp_path / "out")
    assert logits(loaded).isfinite().all()


def test_a_rank_of_its_own_is_heeded_and_kept(tmp_path):
    base, ranks = base_of(), {UP: 3, DOWN: 1, ATTENTION: 2}
    _, verified, _ = tuned(base, "lora", list(ranks), tmp_path / "out", ranks=ranks)
    assert verified.trainable_parameters == 4 * (3 * (96 + 32) + 32 + 48) + 2 * (32 + 32)
    loaded = load_adapter(base_of(), tmp_path / "out")
    assert {n: layer.r["default"] for n, layer in lora_layers(loaded).items()} == ranks
    assert {layer.scaling["default"] for layer in lora_layers(loaded).values()} == {2}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", ["all", "experts", "every second"])
def test_plain_peft_loads_the_adapter_and_merges_it(kind, share, tmp_path):
    base = base_of(kind)
    names = [layer.name for layer in layers_of(base)]
    names = {"all": names, "experts": experts_of(base), "every second": names[::2]}[share]
    model = adapted(base, names)
    expected = logits(model)
    METHODS["lora"].save(model, tmp_path / "adapter", "tiny")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    experts = [n for n in sorted(names) if n in experts_of(base_of(kind))]
    assert (config["target_parameters"] or []) == experts
    assert config["target_modules"] == sorted(set(names) - {*experts})
    plain = PeftModel.from_pretrained(base_of(kind), tmp_path / "adapter")
    assert torch.equal(logits(plain), expected)
    ours = load_adapter(base_of(kind), tmp_path / "adapter")
    assert list(lora_layers(ours)) == names
    with folded(ours):
        assert all(layer.merged for layer in lora_layers(ours).values())
        assert torch.allclose(logits(ours), expected, atol=1e-4)
    assert torch.equal(logits(ours), expected)
    whole, before = merged(base_of(kind), "lora", tmp_path)
    assert worst_difference(whole, before) < 1e-4
    assert torch.allclose(before[0, :12], expected[0], atol=1e-5)
    assert not any("lora" in name for name, _ in whole.named_parameters())


def test_both_stages_rank_experts_and_leave_the_base(tmp_path):
    base = base_of()
    before = {n: tensor_digest(p) for n, p in base.named_parameters()}
    names = [layer.name for layer in layers_of(base)]
    result = learn_adapter(
        base, names, tiny.rows(32), STAGE1, Schedule(lr=1e-2, steps=6), seed=0,
        adapter_folder=tmp_path / "adapter",
    )  # fmt: skip
    assert result.verification.matched == len(names) == 13
    gates = learn_gates(base, tmp_path / "adapter", tiny.rows(32), STAGE2, seed=0)
    assert list(gates.scores) == names and UP in names
    assert all(gates.first_gradient[name] != 0 for name in names)
    assert {n: tensor_digest(p) for n, p in base.named_parameters()} == before


@pytest.mark.parametrize("method", METHOD)
def test_a_resumed_training_gives_the_same_bits(method, tmp_path):
    class Killed(Exception):
        pass

    def die(step, _):
        if step == 3:
            raise Killed

    def here(folder, **more):
        return TrainRuntime(checkpoints=CheckpointFolder(tmp_path / folder, 0.0), **more)

    names = [UP, DOWN, ATTENTION]
    tuned(base_of(), method, names, tmp_path / "whole")
    with pytest.raises(Killed):
        tuned(base_of(), method, names, tmp_path / "lost", runtime=here("kept", on_metrics=die))
    steps = []
    again = here("kept", on_metrics=lambda step, _: steps.append(step))
    tuned(base_of(), method, names, tmp_path / "again", runtime=again)
    assert steps == [3, 4]
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name


@pytest.mark.parametrize("method", METHOD)
def test_a_name_that_is_no_tensor_of_experts_is_refused(method, tmp_path):
    wrong = f"{EXPERTS}.up_proj"
    with pytest.raises(UserError, match=r"experts\.up_proj"):
        tuned(base_of(), method, [DOWN, wrong], tmp_path)


def test_an_adapter_whose_names_match_nothing_is_refused(tmp_path):
    METHODS["lora"].save(adapted(base_of(), [UP, DOWN]), tmp_path, "tiny")
    file = tmp_path / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"target_parameters": [UP, f"{EXPERTS}.dwn_proj"]}))
    with pytest.raises(CheckError, match=r"no parameter .*experts\.dwn_proj: another"):
        load_adapter(base_of(), tmp_path)
