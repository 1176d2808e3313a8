"""`ila export` and `ila verify` as commands: exit codes, one message, and nothing half-written."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import urlparse

import pytest

from tasks.cache.payloads import payload_digest
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

BASE = ROOT / "ila_core/demo/base"


@pytest.fixture
def ranking(finished):
    return finished.json("rankings", "list")[0]["ranking"]


@pytest.fixture
def exported(finished, ranking, tmp_path):
    """`exported(to, *options)`: the folder that was written."""

    def write(to, *options):
        out = tmp_path / to
        finished("export", ranking, "--to", to, "--source", "terse", "--out", str(out), *options)
        return out

    return write


@pytest.mark.parametrize("to", ["peft", "axolotl", "llamafactory", "swift", "trl", "json", "csv"])
def test_what_was_exported_verifies(finished, ranking, exported, to):
    out = exported(to)
    asked = ["--ranking", ranking, "--policy", "ila", "--source", "terse"]
    [contract] = finished.json("verify", str(out), *asked)
    assert (contract["requested"], contract["matched"], contract["holds"]) == (32, 32, True)
    assert contract["trainable_parameters"] == contract["expected_parameters"] > 0
    assert "32 of 43 layers" in (out / "README.txt").read_text()


def test_another_selection_does_not_hold_and_is_named(finished, ranking, exported):
    out = exported("peft", "--layers", "40")
    asked = ["--ranking", ranking, "--policy", "ila", "--source", "terse", "--keep", "0.5"]
    code, said, _ = finished.ended("verify", str(out), *asked)
    assert code == 3
    assert "trains without having been requested: model.layers." in said
    assert "and 10 more" in said  # 40 - 22 of them, 8 shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "pfet", "--source", "terse"], "did you mean 'peft'"),
        (["--to", "peft"], "policy 'ila' needs --source, the dataset whose scores decide: terse"),
        (["--to", "peft", "--source", "tarse"], "did you mean 'terse'"),
        (["--to", "peft", "--policy", "ilo"], "did you mean 'ila'"),
        (["--to", "peft", "--source", "terse", "--keep", "0"], "--keep 0 is no fraction"),
        (["--to", "peft", "--source", "terse", "--keep", "1.5"], "--keep 1.5 is no fraction"),
        (["--to", "peft", "--source", "terse", "--keep", "nan"], "--keep nan is no fraction"),
        (["--to", "peft", "--source", "terse", "--layers", "44"], "the ranking has 43 layers"),
        (
            ["--to", "peft", "--source", "terse", "--layers", "4", "--keep", "0.5"],
            "--keep 0.5 and --layers 4: give one of them",
        ),
        (
            ["--to", "peft", "--policy", "intersection", "--keep", "0.75"],
            "policy 'intersection' takes no --keep 0.75: its size is an outcome, by --least",
        ),
        (
            ["--to", "peft", "--policy", "intersection", "--source", "terse"],
            "reads every dataset's scores; leave --source terse out",
        ),
        (["--to", "peft", "--policy", "freeze_random"], "is a control of another arm"),
        (["--to", "peft", "--policy", "attention", "--layers", "4"], "takes no --layers 4"),
        (["--to", "peft", "--policy", "per_cost", "--source", "terse"], "needs --params"),
        (["--to", "peft", "--policy", "rate_by_score", "--source", "terse"], "a learning rate per"),
        (["--to", "swift", "--policy", "rank_by_score", "--source", "terse"], "one LoRA rank"),
        (["--to", "peft", "--source", "terse", "--method", "ful"], "did you mean 'full'"),
        (["--to", "peft", "--source", "terse", "--r", "0"], "--r 0: Input should be greater"),
        (["--to", "peft", "--source", "terse", "--method", "full"], "PEFT cannot train"),
        (["--to", "unsloth", "--source", "terse"], "this selection is no such grid"),
        (
            ["--to", "peft", "--source", "terse", "--base", "org/chat"],
            "not the model that the ranking was made on, demo: say how it stems from that",
        ),
        (
            ["--to", "peft", "--source", "terse", "--base", "llama2-7b"],
            "--base llama2-7b has other layers than ranking",
        ),
    ],
)
def test_wrong_input_exits_with_2_and_writes_nothing(finished, ranking, tmp_path, options, message):
    out = tmp_path / "out" / "put"
    error = finished("export", ranking, *options, "--out", str(out), expect=2)
    assert message in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_left_alone(finished, ranking, exported):
    out = exported("peft")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    options = ["--to", "csv", "--source", "terse", "--out", str(out)]
    assert "not empty: give a new folder" in finished("export", ranking, *options, expect=2)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(p.name for p in out.parent.iterdir()) == ["peft"]


def test_ranks_by_score_and_a_limit_in_parameters(finished, ranking, exported, tmp_path):
    asked = ["--ranking", ranking, "--policy", "rank_by_score", "--source", "terse"]
    out = tmp_path / "ranks"
    finished(
        "export", ranking, "--to", "peft", *asked[2:], "--out", str(out)
    )  # fmt: skip
    assert json.loads((out / "adapter_config.json").read_text())["rank_pattern"]
    [contract] = finished.json("verify", str(out), *asked)
    assert contract["holds"]
    code, said, _ = finished.ended("verify", str(out), *asked, "--r", "4")
    assert code == 3 and "parameters of layers train" in said
    out = exported("peft", "--params", "100000")
    [contract] = finished.json(
        "verify", str(out), "--ranking", ranking, "--policy", "ila", "--source", "terse",
        "--params", "100000",
    )  # fmt: skip
    assert contract["holds"] and contract["trainable_parameters"] <= 100_000


def test_a_declared_relation_is_written_beside_what_was_exported(exported):
    out = exported("peft", "--base", "org/chat", "--relation", "instruct")
    assert (
        json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"]
        == "org/chat"
    )
    assert "org/chat is declared instruct of that" in (out / "README.txt").read_text()


def test_what_was_exported_and_what_was_trained_name_the_base_and_carry_its_tokenizer(
    finished, exported
):
    from transformers import AutoTokenizer

    adapters = [p.parent / "adapter" for p in finished.home.rglob("finetune.json")]
    assert adapters
    template = AutoTokenizer.from_pretrained(BASE).chat_template
    for folder in (exported("peft"), *adapters):
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(BASE) and config["revision"] is None
        assert AutoTokenizer.from_pretrained(folder).chat_template == template


def test_a_ranking_of_a_folder_that_no_run_here_has_seen_needs_that_folder(
    finished, ranking, tmp_path
):
    ila = finished.copied(tmp_path / "home")
    (ila.home / "lock.json").unlink()
    (tmp_path / "their.json").write_text(ila("rankings", "show", ranking, "--json"))
    asked = ["export", str(tmp_path / "their.json"), "--to", "peft", "--source", "terse"]
    error = ila(*asked, "--out", str(tmp_path / "out"), expect=2)
    assert "was made on a local folder, demo, and no run on this machine has seen that" in error
    ila(*asked, "--out", str(tmp_path / "out"), "--base", str(BASE))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(BASE)
    assert "is declared" not in (tmp_path / "out" / "README.txt").read_text()


def test_what_the_layers_do_not_hold_is_said_of_what_was_exported(finished, ranking, tmp_path):
    document = json.loads(finished("rankings", "show", ranking, "--json"))
    document["coverage"] = {"share": 0.31, "outside": "experts.up (12,288)"}
    (tmp_path / "mixture.json").write_text(json.dumps(document))
    file, out = str(tmp_path / "mixture.json"), str(tmp_path / "out")
    finished("export", file, "--to", "csv", "--source", "terse", "--out", out)
    said = "the layers hold 31.0% of the model's matrix weights; neither ranked nor trained"
    assert said in (tmp_path / "out" / "README.txt").read_text()
    asked = ["--ranking", file, "--policy", "ila", "--source", "terse"]
    assert said in finished("verify", out, *asked)


def test_an_approximation_is_said(finished, exported):
    out = exported("unsloth", "--approximate")
    assert "layers train that should be frozen" in (out / "README.txt").read_text()


def test_every_arm_of_a_run_holds(finished):
    contracts = finished.json("verify", "smoke")
    assert [c["target"] for c in contracts] == [
        f"{arm} seed 0" for arm in ("all", "ila", "intersection", "random")
    ]
    for contract in contracts:
        assert contract["holds"]
        assert contract["matched"] == contract["requested"] == contract["gradient_seen"]
        assert contract["frozen_identical"] == contract["frozen_tensors"] == 57
    assert "does not hold" not in finished("verify", "smoke")


def rewrite(ila, step, file, change):
    """Change a file in the payload of a finished step, as if it had been committed so; its key."""
    with closing(sqlite3.connect(ila.home / "mlflow.db")) as connection, connection:
        key, uri = connection.execute(
            "SELECT k.value, r.artifact_uri FROM runs r"
            " JOIN tags k ON k.run_uuid = r.run_uuid AND k.key = 'ila.key'"
            " JOIN tags s ON s.run_uuid = r.run_uuid AND s.key = 'ila.step'"
            " WHERE s.value = ? LIMIT 1",
            [step],
        ).fetchone()
        payload = Path(urlparse(uri).path) / "payload"
        value = json.loads((payload / file).read_text())
        change(value)
        (payload / file).write_text(json.dumps(value))
        connection.execute(
            "UPDATE tags SET value = ? WHERE key = 'ila.digest' AND run_uuid ="
            " (SELECT run_uuid FROM tags WHERE key = 'ila.key' AND value = ?)",
            [payload_digest(payload), key],
        )
    return key


def test_a_run_that_broke_the_contract_does_not_hold(finished, tmp_path):
    ila = finished.copied(tmp_path / "home")
    broken = {"frozen_identical": 56, "gradient_seen": 1}
    key = rewrite(
        ila, "finetune", "finetune.json", lambda result: result["verification"].update(broken)
    )
    code, said, _ = ila.ended("verify", f"key:{key}")
    assert code == 3
    assert f"key:{key}: a gradient was seen on 1 of" in said
    assert f"key:{key}: 56 of 57 frozen tensors are as they were" in said


def test_a_ranking_of_an_older_version_does_not_hide_the_others(finished, tmp_path):
    ila = finished.copied(tmp_path / "home")
    key = rewrite(ila, "ranking", "ranking.json", lambda r: r.update(schema_version=1))
    code, out, err = ila.ended("rankings", "list")
    assert (code, out) == (0, "")
    assert f"key:{key} cannot be read" in err and "Traceback" not in err


def test_what_cannot_be_verified_is_said(finished, ranking, exported, tmp_path):
    out = exported("peft")
    cases = {
        ("smokey",): "did you mean 'smoke'",
        ("demo",): "no run of profile 'demo' has finished yet",
        ("key:0123456789ab",): "no finished step has key:0123456789ab",
        (ranking,): "is a ranking: give the key of a finetune step",
        ("smoke", "--policy", "all"): "leave --ranking and --policy out",
        (str(out),): "does not say which layers it should train",
        (str(out), "--source", "terse"): "belong to a --policy",
        (str(ROOT / "docs"), "--ranking", ranking, "--policy", "all"): "holds no configuration",
    }
    for arguments, message in cases.items():
        error = finished("verify", *arguments, expect=2)
        assert message in error, arguments
        assert "Traceback" not in error


def test_the_trl_script_trains_the_head_and_its_adapter_verifies(
    finished, ranking, exported, tmp_path
):
    out = exported("trl")
    config = json.loads((out / "adapter_config.json").read_text())
    assert "lm_head" in config["target_modules"]
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Flora did."}]
    data = tmp_path / "data.jsonl"
    data.write_text((json.dumps({"messages": turns}) + "\n") * 8)
    trained = tmp_path / "trained"
    command = [sys.executable, "train.py", "--data", str(data), "--out", str(trained)]
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=out, env=offline, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (trained / "chat_template.jinja").is_file()
    asked = ["--ranking", ranking, "--policy", "ila", "--source", "terse"]
    [contract] = finished.json("verify", str(trained), *asked)
    assert contract["holds"]
    # A name that matches nothing, which PEFT does not mention, ends it.
    config["target_modules"][0] = "model.layer.0.self_attn.q_proj"
    (out / "adapter_config.json").write_text(json.dumps(config))
    shutil.rmtree(trained)
    done = subprocess.run(
        [*command, "--model", str(BASE)],
        cwd=out, env=offline, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "has no layer model.layer.0.self_attn.q_proj" in done.stderr
    assert not trained.exists()
