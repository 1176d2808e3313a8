"""Defaults: those of the paper, those that data decide, and the one line that has no others."""

import json

import pytest

from ila_core.config import DataConfig, Profile
from ila_core.config.derived import epochs, longest_row, preparation, search_epochs
from ila_core.config.load import OneLine, load_model_config, load_profile, shipped
from ila_core.errors import UserError


def test_a_model_and_datasets_are_a_whole_profile():
    profile = load_profile(OneLine("org/model", ("lima", "org/chat:en:test", "rows/mine.csv")))
    assert (profile.model.name, profile.model.source) == ("model", "org/model")
    asked = [(d.name, d.source, d.config, d.split) for d in profile.datasets]
    assert asked == [
        ("lima", "lima", None, "train"),
        ("chat", "org/chat", "en", "test"),
        ("mine", "rows/mine.csv", None, "train"),
    ]
    assert profile.name == "model-lima-chat-mine"
    assert profile.search.datasets == ("lima", "chat", "mine")
    assert (profile.finetune.dataset, profile.evaluate.against) == ("lima", "all")
    arms = [(a.name, a.policy, a.source, a.like) for a in profile.finetune.arms]
    assert arms == [
        ("all", "all", None, None),
        ("ila", "ila", "lima", None),
        ("intersection", "intersection", None, None),
        ("random", "freeze_random", None, "ila"),
    ]


def test_one_dataset_has_nothing_to_intersect():
    (one,) = load_profile(OneLine("demo", ("lima",))).datasets
    assert one.name == "lima"
    arms = load_profile(OneLine("demo", ("lima",))).finetune.arms
    assert [arm.name for arm in arms] == ["all", "ila", "random"]


def test_the_arm_ila_reads_a_dataset_that_was_searched():
    given = {
        "name": "p", "model": "org/model", "datasets": ["lima", "no_robots"],
        "search": {"datasets": ["no_robots"]},
    }  # fmt: skip
    profile = Profile.model_validate(given)
    assert profile.finetune.dataset == "lima"
    assert profile.finetune.arms[1].source == "no_robots"


def test_whats_left_to_defaults_is_said_by_the_right_field():
    tree = {"name": "p", "model": "org/model", "datasets": ["lima"], "evaluate": {"against": "x"}}
    with pytest.raises(ValueError, match=r"evaluate\.against: 'x' is not one of 'all', 'ila'"):
        Profile.model_validate(tree)


def test_epochs_are_the_papers_on_its_datasets_and_fall_between_them():
    assert [epochs(n, "lora") for n in (55, 1_030, 9_500, 52_002, 10**6)] == [20, 20, 3, 1.5, 1.5]
    assert [epochs(n, "full") for n in (55, 1_030, 9_500, 52_002)] == [5, 5, 3, 0.5]
    for method in ("lora", "full"):
        found = [epochs(n, method) for n in range(1_000, 60_000, 500)]
        assert found == sorted(found, reverse=True)
    assert 3 < epochs(4_000, "qlora") == epochs(4_000, "lora") < 20


def test_a_search_never_sees_more_conversations_than_the_papers_largest():
    assert search_epochs(52_002) == epochs(52_002, "lora") == 1.5
    assert search_epochs(10**6) * 10**6 == pytest.approx(78_000)


@pytest.mark.parametrize(
    ("conversations", "held_out"), [(50, 10), (320, 64), (1_030, 64), (9_500, 190)]
)
def test_enough_is_held_out_of_small_data_and_little_of_large(conversations, held_out):
    share = preparation(DataConfig(), conversations, None).held_out_fraction
    assert round(share * conversations) == held_out


def test_rows_are_as_long_as_the_model_reads_up_to_a_limit():
    lengths = [longest_row(DataConfig(), positions) for positions in (512, 4_096, 131_072, None)]
    assert lengths == [512, 4_096, 4_096, 4_096]
    assert longest_row(DataConfig(max_length=64), 512) == 64


def test_qlora_and_adalora_have_what_they_are_not_given_of_lora():
    finetune = {
        "lora": {"lr": 3e-3, "epochs": 2, "r": 8, "dropout": 0.0},
        "adalora": {"steps": 9},
    }
    tree = {"name": "p", "model": "org/model", "datasets": ["lima"], "finetune": finetune}
    found = Profile.model_validate(tree).finetune
    assert found.qlora == found.lora
    assert (found.lora.alpha, found.adalora.initial_r, found.adalora.alpha) == (16, 12, 24)
    assert (found.adalora.lr, found.adalora.r, found.adalora.dropout) == (3e-3, 8, 0)
    assert (found.adalora.epochs, found.adalora.steps) == (None, 9)
    assert Profile.model_validate(found_again(found, tree)).finetune == found


def found_again(finetune, tree):
    """The profile with every field written out, as a Prefect server keeps it."""
    return tree | {"finetune": json.loads(finetune.model_dump_json())}


def test_a_name_that_is_a_models_folder_too_is_refused_with_both_spellings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert load_model_config("demo").name == "demo"  # a folder of something else
    (tmp_path / "demo" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"write \./demo for the folder, or .*demo\.yaml"):
        load_model_config("demo")
    assert load_model_config("./demo").source == "./demo"


def test_a_folder_is_one_whatever_it_looks_like(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert load_model_config("org/model").local
    assert not load_model_config("org/other").local
    assert load_model_config("org").local
    assert not set(shipped("models")) & {"org"}


@pytest.mark.parametrize(
    ("template", "why"),
    [("chatml", "is no chat template"), ("missing.jinja", "missing.jinja cannot be read")],
)
def test_what_is_no_template_is_refused(template, why):
    tree = {"name": "p", "model": {"source": "org/model", "template": template}, "datasets": ["x"]}
    with pytest.raises(ValueError, match=why):
        Profile.model_validate(tree)


def test_a_template_may_be_a_file(tmp_path):
    (tmp_path / "mine.jinja").write_text("{{ messages }}\n")
    tree = {"source": "org/model", "template": str(tmp_path / "mine.jinja")}
    model = Profile.model_validate({"name": "p", "model": tree, "datasets": ["lima"]}).model
    assert model.template == "{{ messages }}"
