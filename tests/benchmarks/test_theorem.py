"""Theorem 2.1 in numbers, on successive steps of a real stage 1."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
from transformers import TrainerCallback

from benchmarks.theorem import check_theorem, snapshot
from ila_core.config import Schedule
from ila_core.errors import CheckError
from ila_core.search.gates import Gates
from ila_core.search.scoring import gamma_gradient
from ila_core.train.loop import train
from ila_core.train.loss import TokenLoss
from ila_core.train.methods import METHODS
from ila_core.train.methods.lora import lora_layers
from tests.helpers import aligned, tiny

ROWS = tiny.rows(32, seed=3)


class Snapshots(TrainerCallback):
    def __init__(self, model) -> None:
        self.model, self.found = model, []

    def on_step_end(self, args, state, control, **_) -> None:
        if state.global_step % 4 == 0:
            self.found.append(snapshot(self.model, ROWS, gamma=0.5, micro_batch=16))


@pytest.fixture(scope="module")
def snapshots():
    model = METHODS["lora"].attach(
        aligned.base_model(), tiny.layers(tiny.model()), tiny.LORA, seed=0
    )
    watch = Snapshots(model)
    train(
        model, tiny.rows(200), schedule=Schedule(lr=1e-2, steps=24), optimizer=tiny.OPTIMIZER,
        seed=0, callbacks=[watch],
    )  # fmt: skip
    return watch.found


def test_the_gate_gradient_is_that_of_the_gates() -> None:
    model = aligned.stage1_model()
    before = [(n, p.requires_grad, p.grad) for n, p in model.named_parameters()]
    scalings = copy.deepcopy({n: dict(x.scaling) for n, x in lora_layers(model).items()})
    found = snapshot(model, ROWS, gamma=0.3, micro_batch=8).gate_gradient
    assert [(n, p.requires_grad, p.grad) for n, p in model.named_parameters()] == before
    assert {n: dict(x.scaling) for n, x in lora_layers(model).items()} == scalings
    with Gates(model) as gates:
        expected = gamma_gradient(model, gates, TokenLoss(model), ROWS, gamma=0.3, micro_batch=32)
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_both_sides_of_the_inequality(snapshots) -> None:
    assert len(snapshots) == 6
    found = check_theorem(snapshots, gamma=0.5, gate_lr=2.0)
    for step, (a, b) in zip(found.steps, pairwise(snapshots), strict=True):
        gap = [a.gate_gradient[n] - b.gate_gradient[n] for n in a.gate_gradient]
        assert step.moved == pytest.approx(2 * math.hypot(*gap))
        assert 0 < step.moved <= step.bound <= found.bound
        assert step.bound == pytest.approx(2 * (found.q * found.l2 + found.l1) * step.update_moved)
    assert found.bound == max(step.bound for step in found.steps)
    halved = check_theorem(snapshots, gamma=0.5, gate_lr=1.0)
    assert halved.bound == pytest.approx(found.bound / 2)


def test_too_little_to_compare(snapshots) -> None:
    with pytest.raises(CheckError, match="two steps of stage 1 are needed"):
        check_theorem(snapshots[:1], gamma=0.5, gate_lr=1.0)
    with pytest.raises(CheckError, match="did not change between two snapshots"):
        check_theorem([snapshots[0], snapshots[0]], gamma=0.5, gate_lr=1.0)
