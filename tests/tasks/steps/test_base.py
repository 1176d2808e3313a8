"""The base model of a step: what its key stands for, and one at a time."""

import gc
import shutil
import weakref
from pathlib import Path

import pytest

from ila_core.config import RuntimeConfig
from ila_core.config.load import load_model_config
from ila_core.errors import CheckError
from ila_core.resolve import Lock
from tasks.cache.step import Context
from tasks.steps.base import Base
from tasks.steps.resident import evaluated


@pytest.fixture
def base(tmp_path):
    config = load_model_config("demo")
    shutil.copytree(config.source, tmp_path / "base")
    config = config.model_copy(update={"source": str(tmp_path / "base")})
    return Base.resolve(config, Lock(tmp_path / "home", online=True))


@pytest.fixture
def runtime(tmp_path):
    return RuntimeConfig(home=tmp_path / "home", tracking_uri="unused", device="cpu")


def test_the_last_model_is_gone_when_the_next_is_loaded(base, runtime):
    model = base.load(runtime)
    model.trainer = [model]  # a cycle, as Trainer and PEFT leave one behind them
    last = weakref.ref(model)
    gc.disable()  # Python's own collector may come by at any time, or not for long
    try:
        del model
        assert base.load(runtime) is not None
        assert last() is None
    finally:
        gc.enable()


def test_a_model_that_changed_since_the_keys_were_made_is_refused(base, runtime):
    weights = Path(base.config.source) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckError, match="changed while the run was under way"):
        base.load(runtime)


def test_a_kept_model_is_not_used_with_files_that_changed(base, runtime, tmp_path):
    context = Context(runtime, lambda *_: None, tmp_path)
    with evaluated(base, None, None, context) as kept:
        pass
    with evaluated(base, None, None, context) as again:
        assert again is kept
    tokenizer = Path(base.config.source) / "tokenizer_config.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    with pytest.raises(CheckError, match="changed while"), evaluated(base, None, None, context):
        pass


def test_an_adapter_names_its_base_by_hub_id_or_by_its_folder_and_never_by_a_yaml(base):
    assert base.address == str(Path(base.config.source).absolute()) != base.config.name
    hub = load_model_config("mistral-7b")
    assert Base(hub, {}, (), base.lock).address == hub.source == "mistralai/Mistral-7B-v0.1"
