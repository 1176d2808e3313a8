"""The demo's base, text and datasets are what their scripts make."""

import json
import re
from itertools import islice
from pathlib import Path
from statistics import fmean

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.demo_base import chats, pretrain
from benchmarks.demo_base.card import card
from benchmarks.demo_base.text import KINDS, document, stream
from benchmarks.demo_base.world import Dice

FOLDER = Path(__file__).parents[2] / "ila_core/demo"
BASE, DATA = FOLDER / "base", FOLDER / "data"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BASE)


def answers(row):
    """What the assistant says, in any of the three formats."""
    if "messages" in row:
        return [m["content"] for m in row["messages"] if m["role"] == "assistant"]
    return [row.get("output") or row.get("response")]


def shipped(name):
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]


def test_a_document_depends_on_its_seed_and_index_alone():
    assert document("a", 3) == next(stream("a", 3)) == document("a", 3)
    assert document("a", 3) != document("b", 3)
    assert document("a", 3) != document("a", 4)


@pytest.mark.parametrize("kind", [kind for kind, _ in KINDS])
def test_every_kind_of_document_is_prose(kind):
    texts = {kind(Dice(str(i))) for i in range(20)}
    assert len(texts) >= 15
    assert all(len(text.split()) >= 5 and "  " not in text for text in texts)


@pytest.mark.parametrize("name", chats.STYLES)
def test_the_shipped_data_are_what_the_generator_makes(name):
    assert (DATA / f"{name}.jsonl").read_text().splitlines() == chats.lines(name)


def test_the_three_styles_differ_visibly():
    data = {name: shipped(name) for name in chats.STYLES}
    words = {
        name: fmean(len(a.split()) for row in rows for a in answers(row))
        for name, rows in data.items()
    }
    turns = {name: fmean(len(answers(row)) for row in rows) for name, rows in data.items()}
    assert words["terse"] < 5 < words["dialogue"] < words["instruct"]
    assert turns["terse"] == turns["instruct"] == 1
    assert turns["dialogue"] > 2


def test_no_question_is_asked_twice():
    for name in chats.STYLES:
        asked = [
            json.dumps({k: v for k, v in row.items() if k not in ("output", "response")})
            for row in shipped(name)
        ]
        assert len(asked) == len(set(asked)), name


def test_the_chat_markers_never_occur_in_pretraining():
    text = " ".join(islice(stream("train-0"), 500))
    assert not re.search(r"<\|(user|assistant)\|>|</s>", text)


def test_the_shipped_tokenizer_is_what_the_script_makes(tokenizer):
    made = pretrain.make_tokenizer(seed=0)
    assert made.get_vocab() == tokenizer.get_vocab()
    assert made.chat_template == tokenizer.chat_template
    sample = document("held-out", 0)
    assert made(sample)["input_ids"] == tokenizer(sample)["input_ids"]


def test_the_shipped_weights_have_the_loss_of_their_card(tokenizer):
    facts = json.loads((BASE / "training.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    rows = pretrain.held_out_rows(tokenizer.backend_tokenizer)
    assert pretrain.held_out_loss(model, rows) == pytest.approx(facts["curve"][-1][2], abs=1e-3)
    assert facts["curve"][-1][2] < 0.5 * facts["two_minutes"][2] < 0.1 * facts["curve"][0][2]
    assert (BASE / "README.md").read_text() == card(facts)


def test_pretraining_goes_on_where_it_was_stopped(tmp_path, monkeypatch, tokenizer):
    monkeypatch.setattr(pretrain, "make_tokenizer", lambda seed: tokenizer)
    monkeypatch.setattr(pretrain, "ROWS", 1)
    monkeypatch.setattr(pretrain, "held_out_rows", lambda fast: torch.arange(64).view(1, 64))

    def run(folder, steps):
        folder.mkdir(exist_ok=True)
        facts = pretrain.train(folder, steps, 0, 1, False, lambda line: None)
        return facts, AutoModelForCausalLM.from_pretrained(folder).state_dict()

    run(tmp_path / "stopped", 1)
    stopped, resumed = run(tmp_path / "stopped", 2)
    undisturbed, weights = run(tmp_path / "undisturbed", 2)
    assert all(torch.equal(resumed[name], weights[name]) for name in weights)
    assert not torch.equal(weights["lm_head.weight"], pretrain.make_model(0).lm_head.weight)
    assert stopped["curve"][-1][2] == undisturbed["curve"][-1][2]
