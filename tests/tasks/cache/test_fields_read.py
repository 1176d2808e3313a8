"""No field of a profile is dead: each is read by a step that computes, or decides which steps are.

A field goes into a key by `model_dump`, so one that nothing reads would move results' names and
never the results. Reads are recorded on the very objects that a pipeline hands to its steps.
"""

import json
from collections import defaultdict

import pytest
from pydantic import BaseModel

from flows.pipeline import ila_pipeline
from ila_core.config import Frozen, RuntimeConfig
from ila_core.config.load import load_profile
from ila_core.keys import key_of
from ila_core.provenance import provenance
from ila_core.resolve import Lock
from tasks.cache.payloads import MEASUREMENTS
from tasks.cache.step import Context, in_order
from tasks.steps.table import STEPS
from tests.helpers.wide import ALL_BENCHMARKS, leaves, wide_profile

NEVER_READ = {
    "model.notes": "for people",
    "sources": "for people; tests/ila_core/config/test_load.py holds the paper's profiles to it",
    "model.related": "which other models' rankings fit: only where one is given (test_registry)",
    **{
        f"datasets.{field}": "of a hub dataset; here it is a file"
        for field in ("config", "revision")
    },
    "datasets.split": "of a hub dataset or a folder; here it is a file",
    "datasets.stands_for": "which arms the paper's tables have: `ila reproduce` alone",
    "evaluate.mmlu.revision": "of the hub's questions; here they are files",
    "evaluate.hellaswag.revision": "of the hub's questions; here they are a file",
    "evaluate.adapters": "trained elsewhere (test_evaluate)",
    **{
        f"evaluate.judge.{field}": "of a judge at an endpoint (test_openai_judge.py)"
        for field in ("attempts", "local", "max_tokens", "prompts", "repeats", "temperature")
    },
    **{
        f"finetune.tune.{method}.steps": "these grids are of epochs, and that of lora is of steps"
        for method in ("qlora", "adalora", "full")
    },
}
"""Fields, and blocks with all that is in them, that need not be read, and why."""

PLANNING_ALONE = {
    **{
        f"data.{field}": "a dataset is prepared by a `Preparation`, which is made of them"
        for field in ("max_length", "held_out_fraction", "split_seed")
    },
    "datasets.held_out": "which other dataset is prepared beside it",
    "finetune.arms.votes": "as many as there are datasets is the policy intersection",
    "datasets.licence": "a name beside the result: ranking cards show it",
    "evaluate.benchmarks": "which evaluations there are",
    "finetune.lora.epochs": "its length here is in steps; the other methods' are in epochs",
    "finetune.tune": "which trainings there are: each is handed a schedule of its own",
    "search.control.seeds": "which controls there are",
    "search.evidence.scorers": "which scores and curves there are",
}
"""Fields that no computation reads, for they decide which steps there are."""


class Reads:
    """Which fields are read, each with the phases it was read in.

    Attribute access alone counts: `model_dump`, equality and hashing look into `__dict__`.
    """

    def __init__(self, profile, monkeypatch):
        self.phase = "planning"
        self.fields = defaultdict(set)
        self._paths, self._held = {}, []
        self._register(profile, "")
        own_access, own_copy = Frozen.__getattribute__, Frozen.model_copy

        def access(config, name):
            path = self._paths.get(id(config))
            if path is not None and name in type(config).model_fields:
                self.fields[path + name].add(self.phase)
            return own_access(config, name)

        def copy(config, **changes):
            made = own_copy(config, **changes)
            if id(config) in self._paths:
                self._register(made, self._paths[id(config)])
            return made

        monkeypatch.setattr(Frozen, "__getattribute__", access)
        monkeypatch.setattr(Frozen, "model_copy", copy)

    def _register(self, value, path):
        if isinstance(value, BaseModel):
            self._paths[id(value)] = path
            self._held.append(value)  # an id is good for as long as its object lives
            for name in type(value).model_fields:
                self._register(value.__dict__[name], f"{path}{name}.")
        elif isinstance(value, tuple | dict):
            for inner in value.values() if isinstance(value, dict) else value:
                self._register(inner, path)

    def of(self, phase):
        return {field for field, phases in self.fields.items() if phase in phases}


@pytest.fixture(scope="module")
def reads(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reads")
    profile = wide_profile(folder)
    with pytest.MonkeyPatch.context() as monkeypatch:
        reads = Reads(profile, monkeypatch)
        compute(profile, "search+evidence+control+tune+report", reads, folder)
        asked = {"benchmarks": ALL_BENCHMARKS, "limit": 1}
        more = profile.model_copy(update={"evaluate": profile.evaluate.model_copy(update=asked)})
        compute(more, "evaluate=base", reads, folder)
    return reads


def compute(profile, until, reads, folder):
    """What a run computes, without its cache."""
    reads.phase = "planning"
    steps = in_order(*ila_pipeline(profile, Lock(folder, online=False)).targets(until))
    runtime = RuntimeConfig(home=folder, tracking_uri="none", progress=False, device="cpu")
    assert all(step.key for step in steps)
    reads.phase = "computing"
    for step in steps:
        out = folder / step.key
        if out.exists():
            continue
        out.mkdir()
        context = Context(runtime, lambda number, metrics: None, folder / f"{step.key}.checkpoints")
        inputs = {name: folder / upstream.key for name, upstream in step.inputs.items()}
        STEPS[step.name](step, inputs, out, context)
        measurements = {"seconds": 0.0, "provenance": provenance(), **context.measurements}
        (out / MEASUREMENTS).write_text(json.dumps(measurements))


def within(field, names):
    """Whether it is one of `names` or lies in one that is a block."""
    return any(field == name or field.startswith(f"{name}.") for name in names)


@pytest.mark.slow
def test_every_field_is_read_or_says_why_not(reads):
    dead = {field for field in leaves() if field not in reads.fields}
    assert {field for field in dead if not within(field, NEVER_READ)} == set()
    assert {name for name in NEVER_READ if not any(within(f, [name]) for f in dead)} == set()


@pytest.mark.slow
def test_what_no_computation_reads_decides_which_steps_there_are(reads):
    planned = set(leaves()) & (reads.of("planning") - reads.of("computing"))
    assert {field for field in planned if not within(field, PLANNING_ALONE)} == set()
    assert {name for name in PLANNING_ALONE if not any(within(f, [name]) for f in planned)} == set()


def test_dumping_comparing_and_hashing_are_no_reading():
    profile = load_profile("smoke")
    lora = profile.search.stage1.lora
    with pytest.MonkeyPatch.context() as monkeypatch:
        reads = Reads(profile, monkeypatch)
        assert key_of({"profile": profile}) and repr(profile) and hash(lora)
        assert profile == profile.model_copy()
        assert not reads.fields
        assert lora.model_copy().r == 8
        assert set(reads.fields) == {"search.stage1.lora.r"}
