"""The model profiles that come with ILA: complete, with the layers the paper counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from ila_core.config.load import load_model_config
from ila_core.data.chat_template import Renderer
from ila_core.data.conversation import Conversation, Message
from ila_core.models.files import model_files
from ila_core.models.layers import find_layers
from ila_core.models.loading import load_base, load_tokenizer
from ila_core.resolve import Lock

ROOT = Path(__file__).parents[3]
LAYERS = {
    "llama2-7b": 225,
    "llama2-13b": 281,
    "llama3.1-8b": 225,
    "mistral-7b": 225,
    "stories3m": 43,
    "demo": 43,
}
PROFILES = sorted((ROOT / "profiles" / "models").rglob("*.yaml"))


def test_every_expected_profile_is_there() -> None:
    assert {path.stem for path in PROFILES} == set(LAYERS)


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_a_hub_model_is_planned_without_a_network(path: Path, tmp_path: Path) -> None:
    config = load_model_config(path.stem)
    if not config.local:
        lock = Lock(tmp_path, online=False)
        assert lock.completed(config) == config
        assert len(lock.layers(config)) == LAYERS[path.stem]


def test_the_demos_layers_are_found_in_its_folder() -> None:
    assert len(find_layers(load_model_config("demo"))) == LAYERS["demo"]


def test_the_plain_template_learns_answers_and_shows_systems() -> None:
    template = load_model_config("mistral-7b").template

    class Tokens:
        special_tokens_map = {"bos_token": "<s>", "eos_token": "</s>"}  # noqa: RUF012
        eos_token = "</s>"
        all_special_tokens = ("<s>", "</s>")
        added_tokens_decoder = {}  # noqa: RUF012

    renderer = Renderer(Tokens(), template)
    turns = [("system", "S"), ("user", "Q1"), ("assistant", "A1")]
    turns += [("user", "Q2"), ("assistant", "A2")]
    talk = Conversation(tuple(Message(*turn) for turn in turns))  # type: ignore[arg-type]
    (rendered,) = renderer.render(talk)
    assert renderer.takes_system
    assert rendered.text == (
        "<s>S\n\n### User:\nQ1\n\n### Assistant:\nA1</s>\n### User:\nQ2\n\n### Assistant:\nA2</s>\n"
    )
    assert [rendered.text[a:b] for a, b in rendered.spans] == ["A1</s>", "A2</s>"]


@pytest.mark.real_data
def test_stories3m_loads_as_its_profile_says(
    real_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ILA_REAL_DATA", str(real_data))
    given = load_model_config("stories3m")
    config = Lock(tmp_path, online=False).completed(given)
    assert (config.dtype, config.lm_head) == ("float32", "untie")
    assert config.template == load_model_config("mistral-7b").template
    base = load_base(config, "cpu")
    assert sum(p.numel() for p in base.parameters()) == 3_148_224 + 4096 * 192
    assert load_tokenizer(config).pad_token == "<unk>"


def test_the_demo_loads_as_its_profile_says(tmp_path: Path) -> None:
    config = Lock(tmp_path, online=False).completed(load_model_config("demo"))
    assert (config.dtype, config.lm_head, config.template) == ("float32", "adapt", None)
    assert load_base(config, "cpu").num_parameters() < 3_000_000
    assert Renderer(load_tokenizer(config), config.template)
    assert sum(path.stat().st_size for path in model_files(Path(config.source))) <= 8 * 2**20
