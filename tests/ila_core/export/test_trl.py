"""The TRL export: adapters on the head are kept, and its script trains what was selected."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ila_core.export.formats import export
from tests.helpers.chosen import case


def test_an_adapter_on_the_head_is_kept_and_said() -> None:
    real = case("mistral-7b")
    exported = export("trl", real.export("lora"))
    assert "lm_head" in json.loads(exported.files["adapter_config.json"])["target_modules"]
    assert any("SFTTrainer refuses" in note for note in exported.notes)
    assert "import SFTTrainer" not in exported.files["train.py"]
    headless = export("trl", real.export("lora", real.selection(without="lm_head")))
    assert "SFTTrainer(" in headless.files["train.py"]
    for to in ("peft", "axolotl", "llamafactory", "swift"):
        assert any("save_embedding_layers" in n for n in export(to, real.export("lora")).notes)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_sft_script_hands_the_selection_to_trl(
    method: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = case("biased")
    wanted = real.export(method, real.selection(without="lm_head"))
    for name, text in export("trl", wanted).files.items():
        (tmp_path / name).write_text(text)
    model, given = real.model(), {}

    class SFTTrainer:
        def __init__(self, **arguments: Any) -> None:
            given.update(arguments)

        def train(self) -> None: ...

        def save_model(self, folder: str) -> None: ...

    # What TRL is handed is what this is about.
    trl = SimpleNamespace(SFTTrainer=SFTTrainer, SFTConfig=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "trl", trl)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: "rows")
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda base: model)
    monkeypatch.setattr(sys, "argv", ["train.py", "--data", "d.jsonl", "--out", "o"])
    runpy.run_path(str(tmp_path / "train.py"), run_name="__main__")
    trained = {name for name, tensor in given["model"].named_parameters() if tensor.requires_grad}
    if method == "lora":
        assert given["peft_config"].target_modules == set(wanted.selection.train)
        assert trained == set(real.parameters)  # TRL freezes them when it adds the adapter
    else:
        frozen = {f"{n}.{part}" for n in wanted.selection.frozen for part in ("weight", "bias")}
        assert given["peft_config"] is None
        assert trained == set(real.parameters) - frozen
