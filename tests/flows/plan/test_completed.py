"""What a profile leaves open is filled in before any key: a default is hashed as if written."""

import json
import shutil

import pytest

from flows.pipeline import ila_pipeline
from ila_core.config import Profile, derived, inputs
from ila_core.config.load import OneLine, load_profile
from ila_core.resolve import Lock
from tasks.cache.step import in_order
from tests.conftest import ROOT

DATA = str(ROOT / "ila_core" / "demo" / "data" / "instruct.jsonl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def pipeline(folder):
    return ila_pipeline(load_profile(OneLine("demo", (DATA,))), Lock(folder, online=False))


def keys(pipeline):
    """Of every step but the report, which shows the profile as it was written."""
    steps = in_order(*pipeline.targets("report+control"))
    return {s.label: s.key for s in steps if s.name != "report"}


def test_what_is_left_open_is_filled_in(pipeline):
    found = pipeline.profile
    assert (found.model.dtype, found.model.lm_head) == ("float32", "adapt")
    schedule = found.search.schedules["instruct"]
    assert (schedule.lr, schedule.epochs) == (2e-4, derived.search_epochs(1_200))
    assert found.finetune.full.epochs == derived.epochs(1_200, "full")
    prepared = pipeline.data["instruct"].given["data"]
    assert prepared.max_length == 512  # the model's positions
    assert prepared.held_out_fraction == pytest.approx(64 / 1_200, rel=0.01)


def test_a_default_is_hashed_as_if_it_had_been_written(pipeline, folder):
    tree = json.loads(pipeline.profile.model_dump_json())
    tree["data"] = json.loads(pipeline.data["instruct"].given["data"].model_dump_json())
    written = ila_pipeline(Profile.model_validate(tree), Lock(folder, online=False))
    assert keys(written) == keys(pipeline)


@pytest.mark.parametrize(
    ("rule", "value", "moved"),
    [
        ("_PAPER", {"lora": ((1_000, 7.0), (2_000, 7.0)), "full": ((1, 5.0),)}, "stage1"),
        ("_PAPER", {"lora": derived._PAPER["lora"], "full": ((1, 7.0),)}, None),
        ("_HELD_OUT", 100, "prepare"),
        ("_MOST_TOKENS", 256, "prepare"),
        ("_MOST_IN_A_SEARCH", 1_200, "stage1"),
    ],
)
def test_a_rule_that_changes_moves_the_keys_of_what_it_decides(
    rule, value, moved, pipeline, folder, monkeypatch
):
    monkeypatch.setattr(derived, rule, value)
    now = ila_pipeline(load_profile(OneLine("demo", (DATA,))), Lock(folder, online=False))
    changed = {label.split()[0] for label, key in keys(now).items() if keys(pipeline)[label] != key}
    order = ["prepare", "stage1", "stage2"]
    if moved is None:  # nothing of this profile is trained in full
        assert not changed
    else:
        assert {
            *order[order.index(moved) :],
            "finetune" if moved == "prepare" else moved,
        } <= changed
        assert not {*order[: order.index(moved)]} & changed


def test_the_template_of_a_model_without_one_is_hashed(tmp_path, monkeypatch):
    base = tmp_path / "base"
    shutil.copytree(ROOT / "ila_core" / "demo" / "base", base)
    (base / "chat_template.jinja").unlink()
    (tmp_path / "other.jinja").write_text(inputs.PLAIN.read_text().replace("User", "Human"))

    def of(home):
        found = load_profile(OneLine(str(base), (DATA,)))
        pipeline = ila_pipeline(found, Lock(tmp_path / home, online=False))
        return pipeline.profile.model.template, pipeline.data["instruct"].key

    template, key = of("a")
    assert template == inputs.PLAIN.read_text().rstrip()
    monkeypatch.setattr(inputs, "PLAIN", tmp_path / "other.jinja")
    other, moved = of("b")
    assert "Human" in other
    assert moved != key
