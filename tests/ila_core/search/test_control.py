"""The positive control, on a tiny model that stage 1 has taught something."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ila_core.config import Stage2Settings
from ila_core.errors import CheckError
from ila_core.search.control import auc, control_result, plant_noise
from ila_core.search.gates import learn_gates
from ila_core.search.scorers import SCORERS
from ila_core.train.methods import METHODS
from ila_core.train.methods.lora import lora_layers, save_adapter
from tests.helpers import aligned, tiny
from tests.helpers.aligned import LAYERS, material

STAGE2 = Stage2Settings(
    rows="train",
    batches=100,
    batch_size=8,
    initial_score=0.0,
    optimizer="sgd",
    lr=2.0,
    weight_decay=0.0,
    schedule="constant",
    max_grad_norm=0.0,
)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2))
def test_auc_counts_pairs_and_ties_as_halves(drawn) -> None:
    scores = {f"{i}": float(score) for i, (score, _) in enumerate(drawn)}
    bad = [f"{i}" for i, (_, corrupted) in enumerate(drawn) if corrupted]
    good = [name for name in scores if name not in bad]
    if not (bad and good):
        return
    pairs = [(scores[b], scores[g]) for b in bad for g in good]
    expected = sum((b < g) + 0.5 * (b == g) for b, g in pairs) / len(pairs)
    assert auc(scores, bad) == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_gate_learning_finds_the_noise_and_the_adapters_size_does_not(seed, tmp_path) -> None:
    model, rows = aligned.stage1_model(), tiny.rows(400)
    corrupted = plant_noise(model, seed=seed)
    assert len(corrupted) == 4
    given = material(model, rows=rows, batches=8, batch_size=32)
    save_adapter(model, tmp_path)
    learned = learn_gates(aligned.base_model(), tmp_path, rows, STAGE2, seed=0).scores
    assert auc(learned, corrupted) == 1.0
    assert auc(SCORERS["gate_gradient"].score(given).scores, corrupted) > 0.8
    assert auc(SCORERS["lora_norm"].score(given).scores, corrupted) < 0.5


def test_only_b_of_the_named_layers_changes() -> None:
    model, untouched = aligned.stage1_model(), aligned.stage1_model()
    corrupted = plant_noise(model, seed=3, fraction=0.4)
    assert list(corrupted) == [x.name for x in LAYERS if x.name in corrupted]
    assert len(corrupted) == 6
    for name, layer in lora_layers(model).items():
        before = lora_layers(untouched)[name]
        assert torch.equal(layer.lora_A["default"].weight, before.lora_A["default"].weight)
        b, b_before = layer.lora_B["default"].weight, before.lora_B["default"].weight
        assert torch.equal(b, b_before) == (name not in corrupted)
        if name in corrupted:
            assert (b.std() / b_before.std()).item() == pytest.approx(3, rel=0.25)
    assert plant_noise(aligned.stage1_model(), seed=3, fraction=0.4) == corrupted
    assert plant_noise(aligned.stage1_model(), seed=4, fraction=0.4) != corrupted


def test_an_untrained_adapter_is_refused() -> None:
    model = METHODS["lora"].attach(tiny.model(), tiny.layers(tiny.model()), tiny.LORA, seed=0)
    with pytest.raises(CheckError, match="run stage 1 before its positive control"):
        plant_noise(model, seed=0)


def test_the_interval_says_when_it_knows_nothing() -> None:
    settings = {"confidence": 0.95, "resamples": 500, "seed": 0}
    one = control_result({0: 0.9}, **settings)
    assert (one.mean, one.low, one.high, one.imperfect_at_most) == (0.9, None, None, None)
    some = control_result({0: 0.9, 1: 1.0, 2: 0.8}, **settings)
    assert some.low is not None and some.high is not None
    assert 0.8 <= some.low < some.mean < some.high <= 1.0
    assert some.imperfect_at_most is None
    perfect = control_result(dict.fromkeys(range(5), 1.0), **settings)
    assert (perfect.low, perfect.high) == (1.0, 1.0)
    assert perfect.imperfect_at_most == pytest.approx(1 - 0.05 ** (1 / 5))
