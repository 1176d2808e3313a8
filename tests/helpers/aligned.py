"""A base that knows one step width and an adapter that taught it the others, for these tests."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from transformers import LlamaForCausalLM

from ila_core.config import OptimizerSettings, Schedule, ScorerSettings
from ila_core.models.layers import layers_of
from ila_core.search.scoring import Material
from ila_core.train.loop import train
from ila_core.train.methods import METHODS
from ila_core.train.methods.lora import load_adapter, save_adapter
from tests.helpers import tiny

HELD_OUT = tiny.rows(40, seed=7)
ROWS = tiny.rows(64, seed=3)
LAYERS = layers_of(tiny.model())


@functools.cache
def _trained() -> tuple[dict, tempfile.TemporaryDirectory]:
    base = tiny.model()
    known = [row for row in tiny.rows(400, seed=1) if row.input_ids[0] == 1]
    settings = OptimizerSettings(batch_size=16, weight_decay=0, warmup_ratio=0, max_grad_norm=1.0)
    train(base, known, schedule=Schedule(lr=5e-3, steps=60), optimizer=settings, seed=0)
    weights = {name: weight.clone() for name, weight in base.state_dict().items()}
    model = METHODS["lora"].attach(base, tiny.layers(tiny.model()), tiny.LORA, seed=0)
    optimizer = tiny.OPTIMIZER.model_copy(update={"batch_size": 16})
    train(model, tiny.rows(400), schedule=Schedule(lr=1e-2, steps=80), optimizer=optimizer, seed=0)
    folder = tempfile.TemporaryDirectory()
    save_adapter(model, Path(folder.name))
    return weights, folder


def base_model() -> LlamaForCausalLM:
    model = tiny.model()
    model.load_state_dict(_trained()[0])
    return model


def stage1_model():
    """The base with the trained adapter on it, fresh for every caller."""
    return load_adapter(base_model(), Path(_trained()[1].name))


def material(model=None, *, layers=LAYERS, rows=ROWS, batches=4, batch_size=8, seed=0, micro=8):
    settings = ScorerSettings(rows="train", batches=batches, batch_size=batch_size)
    return Material(layers, model, rows, settings, seed, micro)
