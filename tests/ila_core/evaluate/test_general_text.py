"""Forgetting: text from a file or from the base itself, and the loss on it."""

import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from benchmarks.demo_base import general
from benchmarks.demo_base.text import document
from ila_core.config import EvaluateConfig, GeneralTextSettings, RuntimeConfig
from ila_core.config.load import load_model_config
from ila_core.errors import UserError
from ila_core.evaluate.benchmarks.general_text import GeneralText
from ila_core.evaluate.subject import Subject
from ila_core.evaluate.texts import load_texts, sample_texts, tokenized
from ila_core.models.loading import load_base, load_tokenizer

SHIPPED = Path(__file__).parents[3] / "ila_core/demo/data/general.jsonl"


@pytest.fixture(scope="module")
def demo():
    config = load_model_config("demo")
    return load_base(config, "cpu"), load_tokenizer(config), config


def evaluate_with(**settings) -> EvaluateConfig:
    return EvaluateConfig(
        benchmarks=("general_text",), against="all", resamples=100, confidence=0.95,
        general_text=GeneralTextSettings(**settings),
    )  # fmt: skip


def subject_of(demo, home, **more):
    model, tokenizer = demo[:2]
    runtime = RuntimeConfig(home=home, tracking_uri="", eval_batch=3, progress=False)
    return Subject(model, tokenizer, "demo", runtime, lambda _: None, **more)


def test_the_loss_of_a_files_texts_is_the_models_own(demo, tmp_path):
    path = tmp_path / "texts.jsonl"
    texts = [document("a", i) for i in range(5)]
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    evaluate = evaluate_with(path=str(path), tokens=24)
    found = GeneralText().run(subject_of(demo, tmp_path), evaluate, {})
    model, tokenizer, _ = demo
    for item, text in zip(found.items, texts, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"][:24]])
        with torch.no_grad():
            own = model(input_ids=ids, labels=ids).loss.item()
        assert item.value / item.weight == pytest.approx(own, abs=1e-4)
    assert found.counts["texts cut"] == sum(len(tokenizer(t)["input_ids"]) > 24 for t in texts)


def test_texts_of_the_base_are_likely_to_it_and_drawn_the_same_again(demo, tmp_path):
    model, tokenizer, _ = demo
    model.train()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    rows = sample_texts(model, tokenizer, texts=40, tokens=32, seed=1)
    assert model.training and torch.equal(torch.get_rng_state(), before)
    model.eval()
    assert rows == sample_texts(model, tokenizer, texts=40, tokens=32, seed=1)
    assert rows != sample_texts(model, tokenizer, texts=40, tokens=32, seed=2)
    assert len(rows) == 40 and all(2 <= len(r) <= 32 for r in rows)
    end = tokenizer.eos_token_id
    assert all(end not in r[1:-1] for r in rows)

    def loss(texts):
        found = GeneralText().run(
            subject_of(demo, tmp_path, texts=texts), evaluate_with(tokens=32), {}
        )
        return found.value

    shuffled = [[r[0], *reversed(r[1:])] for r in rows]
    assert loss(rows) < loss(shuffled) - 1


@pytest.mark.slow
def test_the_shipped_text_is_what_the_generator_makes_and_pretraining_never_read_it():
    read = general.read_in_pretraining()
    assert len(read) > 300_000
    assert SHIPPED.read_text(encoding="utf-8").splitlines() == general.lines(read)
    texts = load_texts(SHIPPED)
    assert len(set(texts)) == general.TEXTS
    assert read.isdisjoint(texts)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a"}\n{"txt": 1}\n', "row 2, field 'text': missing"),
        ("a.jsonl", '{"text": "a"}\n{"te', "row 2: not JSON"),
        ("a.jsonl", '{"text": " "}\n', "row 1, field 'text': empty"),
        ("a.jsonl", '{"text": 1e999, "x": ' + "9" * 5_000 + "}", "row 1: not JSON .*digits"),
        ("a.jsonl", "[" * 100_000, "cannot be read|nested too deeply"),
        ("a.txt", " \n\n ", "holds no text"),
    ],
)
def test_files_that_will_not_do(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_texts(path)
    with pytest.raises(UserError, match="is no file"):
        load_texts(tmp_path / "none.txt")


def test_paragraphs_are_texts(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\nline\n\n\n two \n")
    assert load_texts(path) == ["one\nline", "two"]


def test_cut_texts_are_counted(demo):
    _, tokenizer, _ = demo
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    rows, cut = tokenized(tokenizer, ["the sea " * 20, "sea"], 5)
    assert cut == 1 and len(rows[0]) == 5
