"""The TRL export: its script trains what was selected, on the tokens that the search learned."""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ila_core.config import DatasetConfig, LoraSettings, Preparation
from ila_core.data import Dataset
from ila_core.data.prepared import SPLITS
from ila_core.data.tokenize import prepare
from ila_core.errors import UserError
from ila_core.export.base import Export, Training
from ila_core.export.formats import export
from ila_core.export.trained_adapter import read_adapter
from ila_core.models.architecture import architecture_config
from ila_core.search.ranking import Rendering
from tests.conftest import ROOT
from tests.helpers.chosen import case
from tests.helpers.templates import SHIPPED, renderer_of

BASE = ROOT / "ila_core" / "demo" / "base"


def write(files: dict[str, str], folder: Path) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


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


def test_how_the_search_wrote_conversations_goes_with_it_or_is_said_to_be_unknown() -> None:
    real = case("biased")
    unknown = export("trl", real.export("lora"))
    assert any("give --template" in note for note in unknown.notes)
    rendering = Rendering(template="{{ x }}", template_variables={"x": True}, max_length=77)
    ranking = real.ranking.model_copy(update={"rendering": rendering})
    known = export("trl", type(real)(real.config, real.parameters, ranking).export("lora"))
    assert json.loads(known.files["rendering.json"]) == rendering.model_dump()
    assert not any("give --template" in note for note in known.notes)


INSTALLED = {"torch", "transformers", "peft", "trl", "datasets", "numpy", "jinja2", "zstandard"}
"""What TRL needs, or what a reader of one kind of file does."""


def test_what_goes_with_the_script_imports_nothing_else() -> None:
    real = case("biased")
    headless = real.export("lora", real.selection(without="lm_head"))
    for wanted in (real.export("lora"), headless):
        files = export("trl", wanted).files
        own = {name.removesuffix(".py").replace("/", ".") for name in files if "/" in name}
        imported = [
            name
            for text in (text for name, text in files.items() if name.endswith(".py"))
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else
                         [f"{node.module}.{a.name}" for a in node.names]
                         if node.module == "ila_rows" else [str(node.module)])
        ]  # fmt: skip
        assert {name for name in imported if name.startswith("ila_")} <= own
        others = {name.partition(".")[0] for name in imported} - {*sys.stdlib_module_names}
        assert others - {"ila_rows"} <= INSTALLED
        assert not [name for name, text in files.items() if "ila_core" in text]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """`ila_rows.common` of an export, imported as `train.py` imports it."""
    folder = tmp_path_factory.mktemp("exported")
    write(export("trl", case("biased").export("lora")).files, folder)
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("ila_rows.common")
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] == "ila_rows"]:
            del sys.modules[name]


words = st.text("ab Z.?\n\u00e9\u2028\u4e2d\U0001f600", min_size=1, max_size=12).filter(str.strip)
turns = st.lists(words, min_size=2, max_size=6).filter(lambda texts: len(texts) % 2 == 0)


@st.composite
def lines(draw: st.DrawFn) -> str:
    """A line of a file: a conversation in one of several shapes, or what is none."""
    texts = draw(turns)
    kind = draw(st.sampled_from(["messages", "weighted", "system", "pair", "texts", "none", ""]))
    if kind == "":
        return draw(st.sampled_from(["", "  "]))
    if kind == "none":
        return json.dumps({"messages": [{"role": "user", "content": texts[0]}]})
    if kind == "pair":
        return json.dumps({"prompt": texts[0], "response": texts[1]}, ensure_ascii=False)
    if kind == "texts":
        return json.dumps({"conversations": texts}, ensure_ascii=False)
    messages: list[dict[str, Any]] = [
        {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)
    ]
    if kind == "weighted":
        for message in messages[1::2]:
            message["weight"] = draw(st.integers(0, 1))
    if kind == "system":
        messages.insert(0, {"role": "system", "content": draw(words)})
    return json.dumps({"messages": messages}, ensure_ascii=False)


ALWAYS = [json.dumps({"prompt": f"question {i}", "response": "It is so."}) for i in range(6)]
"""Some for each split."""


@pytest.mark.parametrize(
    "template", ["qwen3", "llama3", "gemma", "phi3", "qwen2_5_training", "cohere", "gemma3"]
)
@settings(deadline=None, max_examples=15)
@given(drawn=st.lists(lines(), max_size=5), max_length=st.sampled_from([40, 1024]))
def test_the_exported_trainer_masks_the_tokens_that_the_search_masks(
    template: str,
    drawn: list[str],
    max_length: int,
    shared: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.getbasetemp() / "property.jsonl"
    path.write_text("\n".join([*ALWAYS, *drawn]) + "\n", encoding="utf-8")
    ours = renderer_of(template)
    data = Preparation(
        max_length=max_length, held_out_fraction=0.3, gate_fraction=0.3, split_seed=0
    )
    dataset = Dataset(DatasetConfig(source=str(path)), None)
    try:
        prepared = prepare(dataset, ours, data, dataset="d")
    except UserError as error:  # nothing learned within so few tokens
        assert max_length == 40 and "split is empty" in str(error)
        return
    rows = [row for split in SPLITS for row in prepared.splits[split]]
    renderer = shared.Renderer(ours.tokenizer, SHIPPED[template], {})
    theirs = shared.rows_of(
        shared.Conversations("data", [path], shared.HowRead()), renderer, max_length
    )
    said = sorted((row["input_ids"], row["labels"]) for row in theirs)
    assert said == sorted((r.input_ids.tolist(), list(map(int, r.labels))) for r in rows)


def test_a_template_is_kept_with_what_it_is_told() -> None:
    from jinja2 import Environment

    told: dict[str, Any] = {"enable_thinking": False, "date_string": 'it\'s {{ 26 }} "Jul"'}
    source = renderer_of("llama3_2", **told).stored_template
    head = source[: len(source) - len(SHIPPED["llama3_2"])]
    shown = Environment().from_string(head + "{{ enable_thinking }} {{ date_string }}").render()
    assert shown == f"False {told['date_string']}"


@pytest.mark.slow
@pytest.mark.parametrize(("method", "kind"), [("lora", "experts"), ("full", "demo")])
def test_the_script_trains_the_selection_on_a_cpu(
    method: Training, kind: str, tmp_path: Path
) -> None:
    """With `SFTTrainer`; the plain trainer runs in `tests/flows/actions/test_export.py`."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, given = tmp_path / "base", case(kind)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    if kind == "demo":
        model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.bfloat16)
    else:
        architecture = architecture_config(given.config)
        architecture.vocab_size = len(tokenizer)
        model = AutoModelForCausalLM.from_config(architecture, dtype=torch.bfloat16)
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    selection = given.selection(without="lm_head")
    template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    rendering = Rendering(template=template, template_variables={}, max_length=64)
    ranking = given.ranking.model_copy(update={"rendering": rendering})
    lora = LoraSettings(r=4, alpha=8, dropout=0)
    exported = export("trl", Export(ranking, selection, method, lora, base=str(base)))
    write(exported.files, tmp_path / "exported")
    assert "SFTTrainer(" in exported.files["train.py"]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join([*ALWAYS, "", '{"prompt": "a\u2028b", "response": "c"}']), "utf-8")
    ended = subprocess.run(
        [
            *(sys.executable, str(tmp_path / "exported" / "train.py"), "--data", str(data)),
            *("--out", str(tmp_path / "out"), "--steps", "2", "--batch-size", "4"),
        ],
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "7 rows of 7; left out: none" in ended.stdout
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == template
    if method == "lora":
        adapter = read_adapter(tmp_path / "out", [layer.name for layer in ranking.layers])
        assert adapter.config["base_model_name_or_path"] == str(base)
        assert not adapter.check("out", ranking.layers, selection.train).breaches
        return
    trained = load_file(tmp_path / "out" / "model.safetensors")
    start = dict(model.named_parameters())
    for name in {*selection.frozen} - {"lm_head"}:
        assert torch.equal(trained[f"{name}.weight"], start[f"{name}.weight"].float())
    assert torch.equal(trained["lm_head.weight"], start["lm_head.weight"].float())
    for name in selection.train:
        weight = trained[f"{name}.weight"]
        assert weight.dtype == torch.float32
        assert (weight != start[f"{name}.weight"].float()).float().mean() > 0.9
