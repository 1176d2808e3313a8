"""The forecast beside what a training of the tiny model really allocates."""

from __future__ import annotations

import pytest
import torch

from ila_core.config import AdaLoraMethod, FullMethod, LoraMethod
from ila_core.data.batches import plan_batches
from ila_core.models.layers import layers_of
from ila_core.selection.finetune import finetune
from ila_core.selection.selection import Selection
from ila_core.train.forecast import Forecast
from ila_core.train.loop import TrainRuntime
from tests.helpers import tiny
from tests.ila_core.models.test_loading import config_for

SIZE = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
LENGTH, BATCH = 48, 8
LORA = LoraMethod(lr=1e-3, steps=3, r=8, alpha=8, dropout=0.0)
FULL = FullMethod(lr=1e-3, steps=3)
ADALORA = AdaLoraMethod(
    lr=1e-3, steps=3, r=4, initial_r=8, alpha=8, dropout=0.0, warmup=0.0, final=0.0, every=1,
    beta1=0.8, beta2=0.8, orthogonality=0.5,
)  # fmt: skip
METHODS = [("lora", LORA), ("adalora", ADALORA), ("full", FULL)]


def forecast(method, settings, dtype="float32", micro_batch=BATCH):
    base = tiny.model(**SIZE)
    architecture = {"model_type": "llama", **base.config.to_diff_dict()}
    for field in ("architectures", "dtype", "transformers_version"):
        architecture.pop(field, None)
    config = config_for("/nowhere", architecture=architecture, lm_head="adapt", dtype=dtype)
    shape = {"batch_size": BATCH, "micro_batch": micro_batch, "length": LENGTH}
    return Forecast.of(config, layers_of(base), method, settings, **shape)


def row(start, length=LENGTH):
    ids = [x % 64 for x in range(start, start + length)]
    return tiny.Row(ids, ids)


def train(base, chosen, rows, method, settings, folder):
    selection = Selection(
        policy="all", source=None, train=chosen, frozen=(), trainable_parameters=0, details={}
    )
    return finetune(
        base, selection, rows, method, settings, tiny.OPTIMIZER, seed=0, folder=folder,
        runtime=TrainRuntime(count_allocations=True),
    )  # fmt: skip


@pytest.mark.parametrize("last", [15, 6, 1])
@pytest.mark.parametrize(("method", "settings"), METHODS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_near_what_is_allocated(method, settings, last, dtype, tmp_path):
    base = tiny.model(**SIZE).to(getattr(torch, dtype))
    chosen = tiny.layers(base)[-last:]
    rows = [row(i) for i in range(BATCH)]
    result = train(base, chosen, rows, method, settings, tmp_path)
    expected = forecast(method, settings, dtype)
    assert expected.memory(chosen) == pytest.approx(result.peak_allocated_bytes, rel=0.15)


def test_the_step_that_is_counted_is_the_largest(tmp_path):
    plan = plan_batches(3 * BATCH, BATCH, LORA.steps, seed=0)
    rows = [row(i, LENGTH if i in plan[2] else 6) for i in range(3 * BATCH)]
    base = tiny.model(**SIZE)
    result = train(base, tiny.layers(base), rows, "lora", LORA, tmp_path)
    expected = forecast("lora", LORA).memory(tiny.layers(base))
    assert expected == pytest.approx(result.peak_allocated_bytes, rel=0.15)


def test_fewer_layers_cost_less_and_nothing_below_the_first_counts():
    found = forecast("lora", LORA)
    names = [layer.name for layer in found.layers]
    memories = [found.memory(names[-n:]) for n in (1, 4, 8, 15)]
    assert memories == sorted(memories) and memories[0] < 0.7 * memories[-1]
    assert found.flops(names[-1:]) < found.flops(names)
    parts = found.parts(names[-1:])
    assert parts["saved for backward"] < 0.1 * found.parts(names)["saved for backward"]


def test_several_passes_hold_gradients_beside_what_is_kept():
    names = tiny.layers(tiny.model(**SIZE))
    once, twice = forecast("full", FULL), forecast("full", FULL, micro_batch=BATCH // 2)
    assert twice.parts(names)["gradients"] == 4 * once.extra_parameters + 4 * sum(
        x.weights for x in once.layers
    )
    assert once.parts(names)["gradients"] < twice.parts(names)["gradients"]


def test_time_is_that_of_the_operations():
    found = forecast("lora", LORA).timed(1000, 2e6)
    names = [layer.name for layer in found.layers]
    assert found.seconds(names) == pytest.approx(1000 * found.flops(names) / 2e6)
