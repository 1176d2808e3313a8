"""Every method on a tiny model: it trains what was selected, keeps it, and gives it back."""

from __future__ import annotations

import contextlib
import json

import pytest
import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model

from ila_core.config import AdaLoraMethod, FullMethod, LoraMethod
from ila_core.data.batches import collate
from ila_core.errors import CheckError, UserError
from ila_core.models.loading import load_base, untie
from ila_core.selection.finetune import finetune
from ila_core.selection.held_out_watch import HeldOutWatch
from ila_core.selection.selection import Selection
from ila_core.train.adalora_ranks import orthogonality
from ila_core.train.checkpoints import CheckpointFolder
from ila_core.train.contract import SelectionContract
from ila_core.train.loop import TrainRuntime, train
from ila_core.train.lora_function import fused_lora
from ila_core.train.loss import TokenLoss
from ila_core.train.merge import folded, merged, worst_difference
from ila_core.train.methods import METHODS
from ila_core.train.methods.lora import lora_layers
from tests.helpers import tiny
from tests.ila_core.models.test_loading import config_for

pytestmark = pytest.mark.filterwarnings("ignore:.*kernels-community:UserWarning")
SOME = ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj", "lm_head")
LORA = LoraMethod(lr=1e-2, steps=12, r=4, alpha=8, dropout=0.1)
ADALORA = AdaLoraMethod(
    **{"lr": 5e-2, "steps": 12, "r": 2, "initial_r": 4, "alpha": 8, "dropout": 0.1},
    **{"warmup": 0.2, "final": 0.2, "every": 1, "beta1": 0.85, "beta2": 0.85},
    orthogonality=0.5,
)
SETTINGS = {
    "lora": LORA,
    "qlora": LORA,
    "adalora": ADALORA,
    "full": FullMethod(lr=1e-2, steps=12),
}


def selection(layers=SOME, **more):
    made = {"policy": "all", "source": None, "train": layers, "frozen": (), "details": {}}
    return Selection(**made, trainable_parameters=0, **more)


@pytest.fixture(scope="module")
def four_bit(tmp_path_factory):
    """Makes the tiny model in 4 bits, its `lm_head` apart."""
    pytest.importorskip("bitsandbytes")
    folder = tmp_path_factory.mktemp("base")
    base = tiny.model(hidden_size=64, head_dim=16)
    base.save_pretrained(folder)
    architecture = {"model_type": "llama", **base.config.to_diff_dict()}
    for field in ("architectures", "dtype", "transformers_version"):
        architecture.pop(field, None)
    config = config_for(folder, architecture=architecture, lm_head="adapt")
    return lambda: load_base(config, "cpu", four_bit=True)


@pytest.fixture
def base_of(request):
    def make(method):
        return request.getfixturevalue("four_bit")() if method == "qlora" else tiny.model()

    return make


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(10)[None]).logits


@pytest.mark.parametrize("method", METHODS)
def test_trains_the_selection_proves_it_and_gives_it_back(method, base_of, tmp_path):
    rows = tiny.rows()
    result = finetune(
        base_of(method), selection(), rows, method, SETTINGS[method], tiny.OPTIMIZER,
        seed=0, folder=tmp_path,
    )  # fmt: skip
    assert sum(result.losses[-4:]) < sum(result.losses[:4])  # the same rows, an epoch each
    proof = result.verification
    assert proof.requested == proof.matched == proof.gradient_seen == 3
    assert proof.frozen_tensors == proof.frozen_identical > 0
    assert proof.trainable_parameters == proof.expected_parameters
    loaded = METHODS[method].load(base_of(method), tmp_path / METHODS[method].folder)
    assert not torch.equal(logits(loaded), logits(base_of(method)))
    assert [p.name for p in tmp_path.iterdir()] == [METHODS[method].folder]


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys")  # PEFT's, of its own AdaLoRA
@pytest.mark.parametrize("method", ["lora", "qlora", "adalora"])
def test_an_adapter_reloads_in_plain_peft_with_identical_logits(method, base_of, tmp_path):
    ready = METHODS[method].prepare(base_of(method), SOME, SETTINGS[method], seed=0, steps=12)
    for layer in lora_layers(ready.model).values():
        matrix = layer.lora_E if method == "adalora" else layer.lora_B
        weight = matrix["default"] if method == "adalora" else matrix["default"].weight
        torch.nn.init.normal_(weight, std=0.3)
    METHODS[method].save(ready.model, tmp_path, "tiny")
    again = PeftModel.from_pretrained(base_of(method), tmp_path)
    assert torch.equal(logits(again), logits(ready.model))
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 30_000  # no base lm_head


@pytest.mark.parametrize("method", ["lora", "adalora"])
def test_merges_exactly(method, tmp_path):
    base = tiny.model()
    finetune(
        base, selection(), tiny.rows(), method, SETTINGS[method], tiny.OPTIMIZER,
        seed=0, folder=tmp_path,
    )  # fmt: skip
    adapted = METHODS[method].load(base, tmp_path / "adapter")
    before = logits(adapted)
    merged = adapted.merge_and_unload()
    assert torch.allclose(logits(merged), before, atol=1e-5)
    assert not any("lora" in name for name, _ in merged.named_modules())


@pytest.mark.slow
@pytest.mark.never_rerun
@pytest.mark.parametrize("method", METHODS)
def test_goes_on_from_a_checkpoint_bit_identically(method, base_of, tmp_path):
    class Killed(Exception):
        pass

    def training(name, stop_at=None):
        def on_metrics(step, _):
            if step == stop_at:
                raise Killed

        folder = CheckpointFolder(tmp_path / "checkpoints" / name, 0.0)
        return finetune(
            base_of(method), selection(), tiny.rows(), method, SETTINGS[method], tiny.OPTIMIZER,
            watch=HeldOutWatch(tiny.rows(8, seed=1), (0.25, 0.5), planned=12, eval_batch=4),
            seed=0, folder=tmp_path / name,
            runtime=TrainRuntime(on_metrics=on_metrics, checkpoints=folder),
        )  # fmt: skip

    whole = training("whole")
    for step in (5, 9):  # 9: AdaLoRA's ranks have fallen and it is between two allocations
        with pytest.raises(Killed):
            training("killed", stop_at=step)
    resumed = training("killed")
    measured = {"seconds", "peak_memory_bytes"}
    assert resumed.model_dump(exclude=measured) == whole.model_dump(exclude=measured)
    assert [w.step for w in whole.watched] == [3, 6]
    kept = METHODS[method].folder
    for file in (tmp_path / "whole" / kept).iterdir():
        assert file.read_bytes() == (tmp_path / "killed" / kept / file.name).read_bytes()


def test_watching_changes_nothing(tmp_path):
    watch = HeldOutWatch(tiny.rows(8, seed=1), (0.5,), planned=12, eval_batch=4)
    results = [
        finetune(
            tiny.model(), selection(), tiny.rows(), "lora", LORA, tiny.OPTIMIZER,
            watch=w, seed=0, folder=tmp_path / str(i),
        )
        for i, w in enumerate((None, watch))
    ]  # fmt: skip
    assert results[0].losses == results[1].losses
    assert len(watch.watched[0].conversations) == 8


def test_adalora_ranks_fall_to_the_budget(tmp_path):
    result = finetune(
        tiny.model(), selection(), tiny.rows(), "adalora", ADALORA, tiny.OPTIMIZER,
        seed=0, folder=tmp_path,
    )  # fmt: skip
    assert result.ranks is not None and list(result.ranks) == list(SOME)
    assert 0 < sum(result.ranks.values()) <= 2 * 3 < 4 * 3
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    kept = {name.rsplit(".", 1)[0]: sum(rank) for name, rank in config["rank_pattern"].items()}
    assert kept == result.ranks


def test_adalora_without_allocation_is_refused():
    ready = METHODS["adalora"].prepare(tiny.model(), SOME, ADALORA, seed=0, steps=12)
    with pytest.raises(CheckError, match="ranks did not fall"):
        ready.ranks()


def test_adalora_penalty_and_gradients_are_those_of_stock_peft():
    stock = get_peft_model(
        tiny.model(),
        AdaLoraConfig(
            target_r=2, init_r=4, lora_alpha=8, lora_dropout=0.0, total_step=12, tinit=2, tfinal=2,
            target_modules=list(SOME), orth_reg_weight=0.5, task_type="CAUSAL_LM",
        ),
    )  # fmt: skip
    settings = ADALORA.model_copy(update={"dropout": 0.0})
    ours = METHODS["adalora"].prepare(tiny.model(), SOME, settings, seed=0, steps=12).model
    torch.manual_seed(0)
    with torch.no_grad():
        for a, b in zip(ours.parameters(), stock.parameters(), strict=True):
            if b.requires_grad:
                a.copy_(b.copy_(torch.randn_like(b)))
    batch = collate([[row] for row in tiny.rows(4)])
    tokens = int((batch["labels"][:, 1:] != -100).sum())
    with fused_lora(ours):
        loss = TokenLoss(ours).backward(batch, tokens) + (penalty := orthogonality(ours)).detach()
    penalty.backward()
    theirs = stock(**batch).loss
    theirs.backward()
    assert torch.allclose(loss, theirs, rtol=1e-5)
    for (name, a), b in zip(ours.named_parameters(), stock.parameters(), strict=True):
        if b.requires_grad:
            assert torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-5), name


def test_adalora_needs_steps_for_its_schedule():
    with pytest.raises(UserError, match=r"of 4 steps, 2 are left .*every: 5"):
        METHODS["adalora"].check(ADALORA.model_copy(update={"every": 5}), 4)


def test_full_trains_embeddings_and_norms_and_freezes_other_layers(tmp_path):
    base = tiny.model()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    finetune(
        base, selection(), tiny.rows(), "full", SETTINGS["full"], tiny.OPTIMIZER,
        seed=0, folder=tmp_path,
    )  # fmt: skip
    moved = {name for name, tensor in base.state_dict().items() if not tensor.equal(before[name])}
    others = {n for n in before if "norm" in n or "embed" in n}
    assert moved == others | {f"{layer}.weight" for layer in SOME}
    assert torch.equal(
        logits(METHODS["full"].load(tiny.model(), tmp_path / "weights")), logits(base)
    )
    with pytest.raises(CheckError, match="another model's weights"):
        METHODS["full"].load(tiny.model(hidden_size=16, head_dim=4), tmp_path / "weights")
    with pytest.raises(UserError, match="no fully fine-tuned weights"):
        METHODS["full"].load(tiny.model(), tmp_path)


def test_full_trains_a_tied_head_as_the_embedding_that_it_is(tmp_path):
    base = tiny.model(tie_word_embeddings=True)
    result = finetune(
        base, selection(SOME[:1]), tiny.rows(), "full", SETTINGS["full"], tiny.OPTIMIZER,
        seed=0, folder=tmp_path,
    )  # fmt: skip
    assert base.lm_head.weight is base.model.embed_tokens.weight
    norms = 5 * 32
    assert result.trainable_parameters == 64 * 32 + norms + 32 * 32


def test_full_updates_of_a_16_bit_base_are_kept_in_32_bits(tmp_path):
    base = tiny.model().to(torch.bfloat16)
    slow = FullMethod(lr=1e-4, steps=12)  # below half a unit in the last place of most weights
    frozen = base.model.layers[0].mlp.up_proj.weight.clone()
    finetune(base, selection(), tiny.rows(), "full", slow, tiny.OPTIMIZER, seed=0, folder=tmp_path)
    weight = base.model.layers[0].self_attn.q_proj.weight
    assert weight.dtype == torch.float32
    assert (weight != weight.bfloat16().float()).float().mean() > 0.9
    assert torch.equal(base.model.layers[0].mlp.up_proj.weight, frozen)
    again = METHODS["full"].load(tiny.model().to(torch.bfloat16), tmp_path / "weights")
    assert again.lm_head.weight.dtype == torch.bfloat16


def test_ranks_and_rates_by_layer_take_effect(tmp_path):
    ranks = dict(zip(SOME, (1, 6, 3), strict=True))
    seen = {}

    class Look(HeldOutWatch):
        def on_train_begin(self, *_, optimizer=None, **__):
            seen["rates"] = {g["initial_lr"]: len(g["params"]) for g in optimizer.param_groups}

    look = Look(tiny.rows(4), (), planned=12, eval_batch=4)
    rates = dict(zip(SOME, (0.5, 1.5, 1.0), strict=True))
    result = finetune(
        tiny.model(), selection(lora_ranks=ranks, rates=rates), tiny.rows(), "lora", LORA,
        tiny.OPTIMIZER, watch=look, seed=0, folder=tmp_path,
    )  # fmt: skip
    assert result.trainable_parameters == 1 * (32 + 32) + 6 * (32 + 64) + 3 * (32 + 64)
    assert seen["rates"] == {0.005: 2, 0.015: 2, 0.01: 2}
    loaded = METHODS["lora"].load(tiny.model(), tmp_path / "adapter")
    assert {n: x.r["default"] for n, x in lora_layers(loaded).items()} == ranks
    assert {n: x.scaling["default"] for n, x in lora_layers(loaded).items()} == {n: 2 for n in SOME}


def test_4_bit_weights_are_really_in_4_bits(four_bit):
    base = four_bit()
    packed = base.model.layers[0].mlp.up_proj.weight
    assert packed.dtype == torch.uint8 and packed.numel() == 64 * 64 // 2
    assert packed.quant_state.quant_type == "nf4" and packed.quant_state.nested
    assert base.lm_head.weight.dtype == torch.float32


def test_4_bits_never_fall_back(tmp_path, monkeypatch):
    tiny.model().save_pretrained(tmp_path)
    architecture = json.loads((tmp_path / "config.json").read_text())
    for field in ("architectures", "dtype", "transformers_version"):
        architecture.pop(field, None)
    config = config_for(tmp_path, architecture=architecture, lm_head="adapt")
    with pytest.raises(UserError, match="no weights in 4 bits on mps"):
        load_base(config, "mps", four_bit=True)
    monkeypatch.setattr("ila_core.models.loading.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"bitsandbytes, which is not installed: pip install"):
        load_base(config, "cpu", four_bit=True)


@pytest.mark.parametrize("method", METHODS)
def test_a_merged_model_is_plain_and_answers_the_same(method, base_of, tmp_path):
    finetune(
        base_of(method), selection(), tiny.rows(), method, SETTINGS[method], tiny.OPTIMIZER,
        seed=0, folder=tmp_path,
    )  # fmt: skip
    # A 4-bit weight cannot take an update in: that of qlora goes into the plain base.
    plain = tiny.model(hidden_size=64, head_dim=16) if method == "qlora" else tiny.model()
    model, before = merged(plain, method, tmp_path)
    assert worst_difference(model, before) < 1e-4
    model.save_pretrained(tmp_path / "merged")
    again = type(tiny.model()).from_pretrained(tmp_path / "merged")
    assert worst_difference(again, before) < 1e-4
    assert {n for n, _ in again.named_modules()} == {n for n, _ in tiny.model().named_modules()}


@pytest.mark.parametrize(("method", "folds"), [("lora", True), ("adalora", False)])
def test_updates_are_folded_in_for_a_while_and_leave_every_bit(method, folds, tmp_path):
    finetune(
        tiny.model(), selection(), tiny.rows(), method, SETTINGS[method], tiny.OPTIMIZER,
        seed=0, folder=tmp_path,
    )  # fmt: skip
    model = METHODS[method].load(tiny.model(), tmp_path / "adapter")
    before, weights = logits(model), [p.detach().clone() for p in model.parameters()]
    for error in (None, RuntimeError):
        with contextlib.suppress(RuntimeError), folded(model):
            assert torch.allclose(logits(model), before, atol=1e-5)
            assert any(layer.merged for layer in lora_layers(model).values()) == folds
            if error is not None:
                raise error
        assert all(map(torch.equal, weights, model.parameters())) and len(weights) > 0
        assert torch.equal(logits(model), before)


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings=True:UserWarning")
@pytest.mark.parametrize("change", ["bfloat16", "tied"])
def test_a_weight_that_cannot_take_its_update_in_for_a_while_keeps_it_beside(change):
    base = tiny.model(tie_word_embeddings=change == "tied")
    if change == "bfloat16":
        base.to(torch.bfloat16)
    model = METHODS["lora"].prepare(base, ["lm_head"], LORA, seed=0, steps=1).model
    with folded(model):
        assert not any(layer.merged for layer in lora_layers(model).values())


def test_a_tied_head_merges_once_it_is_untied(tmp_path):
    def base():
        made = tiny.model(tie_word_embeddings=True)
        untie(made)
        return made

    finetune(
        base(), selection(["lm_head"]), tiny.rows(), "lora", LORA, tiny.OPTIMIZER,
        seed=0, folder=tmp_path,
    )  # fmt: skip
    model, before = merged(base(), "lora", tmp_path)
    model.save_pretrained(tmp_path / "merged")
    again = type(model).from_pretrained(tmp_path / "merged")
    assert worst_difference(again, before) < 1e-4
    assert torch.equal(again.model.embed_tokens.weight, base().model.embed_tokens.weight)


def test_the_penalty_is_no_proof_that_a_layer_trains():
    ready = METHODS["adalora"].prepare(tiny.model(), SOME, ADALORA, seed=0, steps=12)
    with torch.no_grad():  # nothing reaches the loss through this layer any more
        lora_layers(ready.model)["lm_head"].scaling["default"] = 0.0
    contract = SelectionContract(
        ready.model, SOME, expected_parameters=ready.expected_parameters, proof=ready.proof
    )
    with pytest.raises(CheckError, match="no gradient in the first 3 steps: lm_head"):
        train(
            ready.model, tiny.rows(), schedule=ADALORA, optimizer=tiny.OPTIMIZER, seed=0,
            callbacks=[contract, *ready.callbacks], penalty=ready.penalty,
        )  # fmt: skip


def test_adalora_has_ranks_to_lose():
    with pytest.raises(ValueError, match="initial_r 2 must be above r 2"):
        AdaLoraMethod.model_validate(ADALORA.model_dump() | {"initial_r": 2})
