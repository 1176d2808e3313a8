"""Each field of a profile moves a key, but for names and places; nothing of the runtime does.

`test_keys.py` has which keys; here every field there is, by planning alone.
"""

import json
import re
import shutil
import typing
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from flows.pipeline import ila_pipeline
from flows.results.profile_plan import plan_profile
from ila_core.config import Profile, RuntimeConfig
from ila_core.errors import UserError
from ila_core.resolve import Lock
from tasks.cache.step import in_order
from tests.conftest import ROOT
from tests.helpers.wide import ALL_BENCHMARKS, DATASET, leaves, wide_profile

LEAVES = list(dict.fromkeys(leaves()))
BASE = ROOT / "ila_core" / "demo" / "base"
ARCHITECTURE = json.loads((BASE / "config.json").read_bytes())

REPORT_ALONE = {
    **dict.fromkeys(("name", "description", "model.notes", "sources"), "for people"),
    "model.allow_uncovered": "whether it is refused; the layers are the same",
    "model.architecture": "compared with the model's own, whose files are hashed",
    "model.related": "which other models' rankings fit: hashed where one is given",
    **{
        f"datasets.{field}": "the rows are hashed, however they are read"
        for field in ("config", "split", "revision", "columns", "answer", "max_bad")
    },
    "datasets.licence": "shown beside the result",
    "datasets.stands_for": "which arms the paper's tables have; each has a key of its own",
    "finetune.other_datasets": "the same",
    "finetune.arms.name": "a name",
    **{
        f"evaluate.{field}": "how results are compared, which the report does"
        for field in ("against", "resamples", "confidence", "seed")
    },
}
"""They stand on the report, and move its key only."""

NO_KEY = {
    **dict.fromkeys(("model.source", "datasets.source"), "a place: what lies there is hashed"),
    **{
        f"evaluate.{field}": "a place: what lies there is hashed"
        for field in (
            *("mmlu.path", "hellaswag.path", "adapters.path"),
            *("vicuna.questions", "mt_bench.questions", "mt_bench.references"),
        )
    },
}

UNTRIED = {
    "datasets.answer": "only preference pairs have one",
    "evaluate.judge.prompts": "what lies there is hashed (tests/ila_core/judge/test_verdicts.py)",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def profile(folder):
    """Every block in it, every benchmark, and an adapter that was trained elsewhere."""
    made = wide_profile(folder).model_dump()
    adapter = folder / "adapter"
    adapter.mkdir()
    about = {"peft_type": "LORA", "base_model_name_or_path": BASE.name}
    (adapter / "adapter_config.json").write_text(json.dumps(about))
    (adapter / "adapter_model.safetensors").write_bytes(b"hashed, and not read by a plan")
    made["evaluate"]["benchmarks"] = ALL_BENCHMARKS
    made["evaluate"]["adapters"] = {"theirs": {"path": str(adapter)}}
    return Profile.model_validate(made)


@pytest.fixture(scope="module")
def usual(profile, folder):
    return keys(profile, folder)


def keys(profile, home):
    """The keys of all steps there are, each with its kind."""
    targets = ila_pipeline(profile, Lock(home, online=False)).targets("report+control+tune")
    found = {(step.key, step.name) for step in in_order(*targets)}
    assert all(key for key, _ in found)
    return found


def before(leaf, tree):
    """A profile in which the field counts at all."""
    evaluate = tree["evaluate"]
    if leaf.startswith("evaluate.judge"):
        evaluate["judge"] = {"kind": "openai", "model": "gpt"}
    elif leaf in ("evaluate.mmlu.revision", "evaluate.hellaswag.revision"):
        evaluate[leaf.split(".")[1]] |= {"path": None, "revision": "a" * 40}
    elif leaf == "model.revision":
        stated = {"architecture": ARCHITECTURE, "dtype": "float32", "lm_head": "adapt"}
        tree["model"] |= {"source": "some/model", "revision": "a" * 40, "template": "plain"}
        tree["model"] |= stated
        evaluate["adapters"] = {}
    elif leaf == "finetune.tune.arms":
        tree["finetune"]["tune"]["lora"]["lr"] = [5e-4]  # not what the arms have anyway
    return tree


def others(leaf, tree, folder):
    """The profile with other values of the field, one at a time."""
    arms, evaluate = tree["finetune"]["arms"], tree["evaluate"]
    if leaf == "datasets.name":
        yield json.loads(json.dumps(tree).replace(f'"{DATASET}"', '"renamed"'))
    elif leaf in ("finetune.dataset", "search.datasets"):
        rows = (folder / "rows.jsonl").read_text().splitlines(keepends=True)
        (folder / "fewer.jsonl").write_text("".join(rows[:-9]))
        fewer = tree["datasets"][0] | {"name": "other", "source": str(folder / "fewer.jsonl")}
        tree["datasets"] = [*tree["datasets"], fewer]
        part, _, field = leaf.partition(".")
        tree[part][field] = "other" if part == "finetune" else [DATASET, "other"]
        yield tree
    elif leaf == "evaluate.judge.kind":
        evaluate["judge"] = {"kind": "local", "model": "demo"}
        yield tree
    elif leaf in ("finetune.arms.layers", "finetune.arms.parameters", "finetune.arms.memory"):
        limit = {"layers": 30, "parameters": 80_000, "memory": 2**30}
        field = leaf.rpartition(".")[2]
        arms[1] |= {"keep": None, field: limit[field]}
        yield tree
    else:
        yield from _with_other_values(leaf, tree, folder)


def _with_other_values(leaf, tree, folder):
    for location, value, annotation in places(Profile.model_validate(tree), leaf):
        for other in candidates(leaf, value, annotation, folder):
            changed = json.loads(json.dumps(tree))
            node = changed
            for part in location[:-1]:
                node = node[part]
            node[location[-1]] = other
            opposite = {"epochs": "steps", "steps": "epochs"}.get(location[-1])
            if opposite:  # exactly one of the two
                node[opposite] = [] if isinstance(value, tuple) else None
            yield changed


def places(config, leaf):
    """Where the field is in a profile: path to it, value and annotation."""
    name, _, rest = leaf.partition(".")
    value, annotation = getattr(config, name), type(config).model_fields[name].annotation
    if not rest:
        yield (name,), value, annotation
    elif isinstance(value, BaseModel):
        for location, *found in places(value, rest):
            yield (name, *location), *found
    elif value is not None:
        for at, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if rest.split(".")[0] in type(inner).model_fields:
                for location, *found in places(inner, rest):
                    yield (name, at, *location), *found


def candidates(leaf, value, annotation, folder):
    """Other values that the field may take; what is not allowed validation says."""
    given = {
        "model.architecture": ARCHITECTURE,
        "model.template": "plain",
        "model.exclude": ["model.layers.0"],
        "model.related": {"mistral-7b": "instruct"},
        "model.template_variables": {"enable_thinking": False},
        "datasets.columns": {"user": "prompt", "assistant": "response"},
        "datasets.held_out": str(ROOT / "ila_core" / "demo" / "data" / "terse.jsonl"),
        "model.revision": "b" * 40,
        "sources": {"data": "ours"},
        "search.scorer": "size",
        "search.stage1.ranking_stop.scorer": "lora_norm",
        "search.evidence.scorers": ["size"],
        "finetune.method": "full",
        "finetune.other_datasets": [DATASET],
        "finetune.arms.method": "full",
        "finetune.arms.policy": "reversed",
        "finetune.arms.source": DATASET,
        "finetune.arms.like": "vote",
        "finetune.tune.arms": ["ila"],
        "evaluate.against": "ila",
        "evaluate.limit": 1,
        "evaluate.answers": {"them": str(folder / "references.jsonl")},
        "evaluate.vicuna.references": str(folder / "references.jsonl"),
        "evaluate.general_text.path": str(ROOT / "ila_core" / "demo" / "data" / "general.jsonl"),
        **dict.fromkeys(("evaluate.mmlu.revision", "evaluate.hellaswag.revision"), "b" * 40),
    }
    if leaf in given:
        return [given[leaf]]
    if leaf in NO_KEY:
        return [moved(Path(value), folder)]
    if leaf.rpartition(".")[2] in ("epochs", "steps") and not value:
        return [[3], 3] if isinstance(value, tuple) else [7]
    if options := _options(annotation):
        return [option for option in options if option != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if isinstance(value, float):
        return [value / 2, 0.25]
    if isinstance(value, tuple):
        return [[inner + 1 for inner in value], [value[0] / 2]] if _numbers(value) else [value[:-1]]
    return ["another"]


def _options(annotation):
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    return [option for inner in typing.get_args(annotation) for option in _options(inner)]


def _numbers(value):
    return all(isinstance(inner, int | float) for inner in value)


def moved(path, folder):
    """The same content under the same name, elsewhere."""
    to = folder / "elsewhere" / path.name
    if not to.exists():
        to.parent.mkdir(exist_ok=True)
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, to)
    return str(to)


@pytest.mark.parametrize("leaf", [leaf for leaf in LEAVES if leaf not in UNTRIED])
def test_each_field_moves_a_key_or_is_a_name_or_a_place(leaf, profile, usual, folder):
    tree = json.loads(profile.model_dump_json())
    start = before(leaf, json.loads(profile.model_dump_json()))
    was = usual if start == tree else keys(Profile.model_validate(start), folder)
    reached = []
    for other in others(leaf, start, folder):
        try:
            now = keys(Profile.model_validate(other), folder)
        except (ValidationError, UserError):
            continue  # not a value that the field may have beside the others
        reached.append({kind for _, kind in was ^ now})
        if reached[-1] - {"report"}:
            break
    assert reached, "no other value was allowed"
    expected = [set()] if leaf in NO_KEY else [{"report"}] if leaf in REPORT_ALONE else []
    if expected:
        assert [kinds for kinds in reached if kinds not in expected] == []
    else:
        assert reached[-1] - {"report"}, f"{leaf} moves no key but the report's"


def test_the_lists_of_this_file_name_fields():
    assert {*REPORT_ALONE, *NO_KEY, *UNTRIED} <= set(LEAVES)


VALUES = {
    "ILA_HOME": "{elsewhere}",
    "MLFLOW_TRACKING_URI": "sqlite:///{elsewhere}/other.db",
    "ILA_DEVICE": "cpu",
    "ILA_CHECKPOINT_SECONDS": "7",
    "ILA_GPU_LIMIT": "gpu",
    "ILA_PREFECT": "off",
}
"""Of every other variable it is 3."""
READ = {
    name
    for package in ("flows", "tasks", "ila_core")
    for file in (ROOT / package).rglob("*.py")
    for name in re.findall(r'"(ILA_[A-Z_]+)"', file.read_text())
} | {"MLFLOW_TRACKING_URI"}


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("ILA_HOME", str(tmp_path_factory.mktemp("home")))
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return [p.step.key for p in plan_profile("smoke", []).steps]


@pytest.mark.parametrize("variable", sorted(READ))
def test_no_variable_of_the_environment_moves_a_key(planned, variable, monkeypatch, tmp_path):
    monkeypatch.setenv("ILA_HOME", str(tmp_path / "home"))
    value = VALUES.get(variable, "3").format(elsewhere=tmp_path / "elsewhere")
    monkeypatch.setenv(variable, value)
    assert [p.step.key for p in plan_profile("smoke", []).steps] == planned


def test_the_variables_are_all_that_a_runtime_has(monkeypatch, tmp_path):
    """But for two fields that no variable sets."""
    monkeypatch.setenv("ILA_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    usual = RuntimeConfig.from_env()
    for variable in sorted(READ):
        value = VALUES.get(variable, "3").format(elsewhere=tmp_path / "elsewhere")
        monkeypatch.setenv(variable, value)
    changed = RuntimeConfig.from_env()
    own = {f for f in RuntimeConfig.model_fields if getattr(usual, f) == getattr(changed, f)}
    judge = {
        f for f in type(usual.judge).model_fields
        if getattr(usual.judge, f) == getattr(changed.judge, f)
    }  # fmt: skip
    assert (own, judge) == ({"progress"}, {"max_retries"})
