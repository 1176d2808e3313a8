"""What others build on: documents, `--json` fields, exit codes, file names and keys.

A failing test here says that somebody's script breaks: change it on purpose, and say so in the
changelog.
"""

import json
import os
import sys
from unittest.mock import patch

import pytest
import typer
from typer.testing import CliRunner

from flows.actions.run import prefect_ready
from flows.cli import app
from flows.results.profile_plan import plan_profile
from ila_core.export.formats import EXPORTERS
from ila_core.search.ranking import Ranking
from tests.conftest import ROOT

RANKING = "key:2d8465613509"
"""Of `smoke`, wherever it is computed."""


@pytest.fixture(scope="module")
def home(finished):
    """The environment of a process whose ILA_HOME has the finished run of `smoke`."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("ILA_HOME", str(finished.home))
        for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
            monkeypatch.delenv(name, raising=False)
        yield finished.home


def invoke(*arguments):
    done = CliRunner().invoke(app.app, list(arguments), catch_exceptions=False)
    return done.exit_code, done.stdout


def fields(answer):
    """Of the object that a command prints, or of the first of several."""
    return set((answer[0] if isinstance(answer, list) else answer).keys())


JSON = {
    "run smoke": {
        *("profile", "ranking", "report", "headline", "steps"),
        *("computed", "cached", "seconds"),
    },
    "search smoke": {"profile", "ranking", "steps", "computed", "cached", "seconds"},
    "plan smoke": {
        *("profile", "base_model", "layers", "lora_parameters_all_layers", "datasets", "steps"),
        *("same_training", "same_training", "share_of_matrix_weights"),
    },
    "report smoke": {"key", "report"},
    "evaluate smoke": {"profile", "evaluations", "limit"},
    "compare smoke/ila smoke/all": {
        *("compared", "each", "confidence", "limited", "missing", "unknown_generation"),
    },
    "decide smoke/ila --against smoke/random --rule {out}/ship.yaml": {
        *("answer", "reason", "rule", "candidate", "baseline", "outcomes"),
    },
    "forecast smoke --source terse": {
        *("profile", "ranking", "source", "method", "rows"),
        *("bytes_of_all_layers", "flops_per_second"),
    },
    "merge smoke key:d670aad57bba --out {out}/merged": {"folder", "method", "apart", "note"},
    f"export {RANKING} --to peft --source terse --out {{out}}/peft": {
        *("to", "out", "files", "exact", "layers", "notes"),
    },
    f"verify {{out}}/frozen --ranking {RANKING} --policy ila --source terse": {
        *("target", "holds", "requested", "matched", "missed", "unmatched", "unrequested"),
        *("twice", "odd", "trainable_parameters", "expected_parameters"),
        *("frozen_identical", "frozen_tensors", "gradient_seen", "breaches", "notes"),
    },
    "gc": {"found", "bytes", "removed"},
    "doctor": {"name", "state", "found", "advice"},
    "rankings list": {
        *("ranking", "base_model", "datasets", "layers", "seeds"),
        *("published_as", "run", "state"),
    },
    f"rankings compare {RANKING} {RANKING}": {
        *("kind", "a", "b", "n_layers", "n_frozen", "shared_frozen", "jaccard", "kappa"),
        *("chance_jaccard", "p99_jaccard", "above_chance"),
        *("chance_within_types_jaccard", "p99_within_types_jaccard", "above_type_chance"),
    },
}
"""Each command's answer, with the arguments that need no computation."""

_LINEAGE = {"reference", "pinned", "digest", "published_as", "made_by", "used_by"}
REGISTRY = {
    f"rankings publish {RANKING} --name mine --alias best": {
        *("ranking", "published", "alias", "aliases", "before", "card"),
        *("base_model", "datasets", "digest", "key", "run", "state"),
    },
    "rankings lineage mine@best": _LINEAGE,
    "rankings pull mine@best --out {out}/pulled.json": {
        *("reference", "pinned", "digest", "card", "ranking"),
    },
    "rankings adopt {out}/pulled.json": {"ranking", "base_model", "layers", "digest"},
    "rankings retire mine/1 --reason worse": {*_LINEAGE, "retired"},
}
"""Those that change what is published, one after the other."""

ELSEWHERE = {
    "rankings show": "the ranking itself: `DOCUMENT`",
    "control": "trains: tests/flows/cli/test_cli.py",
    "reproduce": "trains: tests/flows/actions/test_reproduce.py",
    "finetune": "trains: tests/flows/actions/test_finetune.py",
    "tune": "trains: tests/flows/actions/test_tune.py",
}


@pytest.fixture(scope="module")
def out(home, tmp_path_factory):
    """A folder with rules, each called by the answer it gives, and something to verify."""
    folder = tmp_path_factory.mktemp("surface")
    for answer, at_least, seeds in (("ship", -9, 1), ("no", 9, 1), ("undecided", -9, 2)):
        require = [{"benchmark": "held_out_loss", "at_least": at_least}]
        rule = {"description": "", "confidence": 0.95, "require": require, "seeds": seeds}
        (folder / f"{answer}.yaml").write_text(json.dumps(rule))
    invoke("export", RANKING, "--to", "peft", "--source", "terse", "--out", f"{folder}/frozen")
    return folder


def answered(command, out):
    code, said = invoke(*command.format(out=out).split(), "--json")
    assert code == 0
    return json.loads(said)


@pytest.mark.parametrize("command", JSON)
def test_fields_of_an_answer_in_json(home, out, command):
    assert fields(answered(command, out)) == JSON[command]


def test_fields_of_the_registrys_answers(finished, out, tmp_path, monkeypatch):
    monkeypatch.setenv("ILA_HOME", str(finished.copied(tmp_path / "home").home))
    for command, expected in REGISTRY.items():
        assert fields(answered(command, out)) == expected


def test_every_command_with_json_is_here():
    known = {*JSON, *REGISTRY, *ELSEWHERE}
    for name in commands(typer.main.get_command(app.app)):
        assert any(f"{entry} ".startswith(f"{name} ") for entry in known), name


def commands(group, prefix=""):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        elif any("--json" in parameter.opts for parameter in command.params):
            yield prefix + name


DOCUMENT = {
    *("schema_version", "base_model", "model", "architecture", "key", "scorer", "keep"),
    *("coverage", "rendering"),
    *("score_keys", "stable", "unsure", "data_keys", "settings", "layers", "versions"),
}


def test_fields_of_the_ranking(home):
    code, said = invoke("rankings", "show", RANKING, "--json")
    document = json.loads(said)
    assert (code, set(document), document["schema_version"]) == (0, DOCUMENT, 2)
    assert set(document["layers"][0]) == {"name", "block", "type", "shape", "scores"}
    assert set(document["layers"][0]["scores"]) == {"terse", "instruct", "dialogue"}
    stored = next(home.glob("artifacts/*/artifacts/payload/ranking.json"))
    assert Ranking.load(stored) == Ranking.model_validate(document)


TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
SLUG = str(ROOT / "ila_core/demo/base").replace("/", "-").replace("_", "-")
ROWS = (
    *("__init__", "common", "errors", "conversation", "conversations", "rows", "shapes"),
    "json_files",
    *("template", "template_probes", "chat_template", "loss_mask", "token_rows"),
)
EXPORTED = {
    "peft": {"adapter_config.json", *TOKENIZER},
    "axolotl": {"axolotl.yaml"},
    "spectrum": {"unfrozen_parameters.yaml", f"model_snr_results/snr_results_{SLUG}.json"},
    "llamafactory": {"llamafactory.yaml"},
    "swift": {"swift.sh"},
    "trl": {
        *("adapter_config.json", "train.py", "rendering.json", *TOKENIZER),
        *(f"ila_rows/{name}.py" for name in ROWS),
    },
    "unsloth": {"unsloth.json"},
    "json": {"selection.json"},
    "csv": {"layers.csv"},
}
OPTIONS = {"spectrum": ["--method", "full"], "unsloth": ["--approximate"]}


@pytest.mark.parametrize("to", EXPORTERS)
def test_names_of_exported_files(home, to, tmp_path):
    asked = ["export", RANKING, "--to", to, "--source", "terse", "--out", str(tmp_path / to)]
    assert invoke(*asked, *OPTIONS.get(to, []))[0] == 0
    files = [path for path in (tmp_path / to).rglob("*") if path.is_file()]
    found = {path.relative_to(tmp_path / to).as_posix() for path in files}
    assert found == {*EXPORTED[to], "README.txt"}


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("plan smoke", 0),
        ("plan smok", 2),
        (f"verify {{out}}/none --ranking {RANKING} --policy ila --source terse", 2),
        (f"verify {{out}}/frozen --ranking {RANKING} --policy all", 3),
        ("decide smoke/ila --against smoke/random --rule {out}/ship.yaml", 0),
        ("decide smoke/ila --against smoke/random --rule {out}/no.yaml", 3),
        ("decide smoke/ila --against smoke/random --rule {out}/undecided.yaml", 4),
    ],
)
def test_exit_codes(home, out, command, code, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ila", *command.format(out=out).split()])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == code


def test_a_failure_exits_with_1_and_an_interrupt_with_130(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("ILA_HOME", str(tmp_path))
    (tmp_path / "damaged.db").write_bytes(b"no database at all" * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/damaged.db")
    monkeypatch.setattr(sys, "argv", ["ila", "plan", "smoke"])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 1
    with patch.dict(os.environ), pytest.raises(SystemExit) as ended, prefect_ready():
        raise KeyboardInterrupt  # Prefect's settings are left in the environment
    assert ended.value.code == 130


KEYS = {
    "prepare terse": "22d868023b50",
    "stage1 terse seed 0": "725e591cbea9",
    "stage2 terse seed 0": "81aa5da3f331",
    "ranking": "2d8465613509",
    "agreement": "fa90d98a4b02",
    "score lora_norm terse seed 0": "4801390a83eb",
    "mask terse seed 0": "3d0729c2b7f9",
    "selection ila": "6a36310303f8",
    "finetune ila seed 0": "d670aad57bba",
    "held_out_loss ila seed 0": "0bcee4254fe1",
    "report": "aabb60166fab",
}
"""A key of each kind. They move with a `VERSION` and with a field of `smoke`, and with nothing
else: what others have cached under them is lost to a change of any other kind."""


def test_the_keys_of_smoke_are_those_of_every_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("ILA_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    steps = {p.step.label: p.step.key for p in plan_profile("smoke", []).steps}
    assert {label: steps[label] for label in KEYS} == KEYS
    assert f"key:{KEYS['ranking']}" == RANKING
