"""CONTRIBUTING's table of which `VERSION` recomputes what, held to what a plan says."""

import json
import re
import sys

import pytest

from flows.pipeline import ila_pipeline
from ila_core.config import Profile
from ila_core.evaluate.benchmarks import BENCHMARKS
from ila_core.resolve import Lock
from ila_core.search.scorers import SCORERS
from ila_core.train.methods import METHODS
from tasks.cache.step import in_order
from tasks.steps.finetune import selection
from tasks.steps.table import STEPS
from tests.conftest import ROOT
from tests.helpers.wide import ALL_BENCHMARKS, wide_profile

PARTS = {
    "a scorer": (SCORERS["integrated_gradients"], "version"),
    "the scorer of `ranking_stop`": (SCORERS["gate_gradient"], "version"),
    "a benchmark": (BENCHMARKS["mt_bench"], "version"),
    "the benchmark `held_out_loss`": (BENCHMARKS["held_out_loss"], "version"),
    "the forecast": (selection, "FORECAST_VERSION"),
}
"""What has a version and is no step, each with one that the profile below uses."""
OUTSIDE = {"adopted"}
"""Not of a profile: `ila rankings adopt` makes it, and no step reads it."""


def rows():
    """What the table says, by its first column: the kinds of step in the last."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text.partition("| bumped |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    found = {}
    for bumped, computed in cells:
        name = bumped if " " in bumped else bumped.strip("`")
        found[name] = set(re.findall(r"`([a-z0-9-]+)`", computed))
    return found


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """With every kind of step in it."""
    folder = tmp_path_factory.mktemp("versions")
    tree = wide_profile(folder).model_dump()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (folder / "adapter_model.safetensors").write_bytes(b"hashed, and not read by a plan")
    tree["evaluate"] |= {
        "benchmarks": ALL_BENCHMARKS,
        "adapters": {"theirs": {"path": str(folder)}},
        "answers": {"them": str(folder / "references.jsonl")},
    }
    return Profile.model_validate(tree)


@pytest.fixture(scope="module")
def keys(profile, tmp_path_factory):
    lock = Lock(tmp_path_factory.mktemp("home"), online=False)

    def now(**search):
        searched = profile.search.model_copy(update=search)
        pipeline = ila_pipeline(profile.model_copy(update={"search": searched}), lock)
        steps = in_order(*pipeline.targets("report+control+tune+pairwise=ila:all"))
        return {step.key: step.name for step in steps}

    return now


def test_the_table_has_every_step_and_whatever_else_has_a_version():
    assert list(rows()) == [*STEPS, *PARTS]


@pytest.mark.parametrize("bumped", [*STEPS, *PARTS])
def test_a_version_recomputes_what_the_table_says(keys, monkeypatch, bumped):
    owner, name = PARTS.get(bumped) or (sys.modules[STEPS[bumped].__module__], "VERSION")
    if bumped == "finetune":
        owner, name = METHODS["lora"], "version"
    before = keys()
    assert set(before.values()) == set(STEPS) - OUTSIDE
    monkeypatch.setattr(owner, name, getattr(owner, name) + 1)
    changed = {kind for key, kind in keys().items() if key not in before}
    assert changed == rows()[bumped] - OUTSIDE


def test_a_scorer_that_ranks_recomputes_what_stage_2_does(keys, monkeypatch):
    ranks = {"scorer": "integrated_gradients"}
    before = keys(**ranks)
    monkeypatch.setattr(SCORERS["integrated_gradients"], "version", 2)
    changed = {kind for key, kind in keys(**ranks).items() if key not in before}
    assert changed == rows()["stage2"] - {"stage2"} | {"score"}
