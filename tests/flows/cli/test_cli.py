"""Every command of the README runs; bad input is one message, an exit code and no traceback."""

import json
import logging
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from flows.actions.run import followed
from flows.cli.app import app
from flows.pipeline import ila_pipeline
from ila_core.config import RuntimeConfig
from ila_core.config.load import load_profile, shipped
from ila_core.resolve import Lock
from ila_core.search.scorers import SCORER_NAMES
from tasks.cache.store import Store
from tasks.run.execute import run_here
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.S)
    for line in block.splitlines()
    if re.match(r"(\.venv/bin/)?ila ", line)
]


def stated(field):
    """A plan whose profile states an architecture with this field."""
    return ["plan", "smoke", "--set", f"model.architecture={{model_type: llama, {field}}}"]


SCORERS = ", ".join(sorted(SCORER_NAMES))
NEEDS_DATA = "stories3m-real"
# Run by files of their own.
ELSEWHERE = {
    "ui",
    "control",
    "reproduce",
    "tune",
    "finetune",
    "evaluate",
    "compare",
    "decide",
    "servers",
}


def test_the_readme_has_commands():
    assert len(COMMANDS) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_readme_commands_run_on_smoke(finished, command, tmp_path, request):
    words = shlex.split(command.removeprefix(".venv/bin/"))[1:]
    if words[0] in ELSEWHERE:
        finished(*words, "--help")
        return
    if NEEDS_DATA in words:
        data = request.getfixturevalue("real_data")
        words[words.index("run")] = "plan"
        assert "43 layers" in finished(*words, ILA_REAL_DATA=str(data))
        return
    if "--model" in words:  # a whole search by the defaults takes minutes (tests/flows/plan)
        own = {"org/name": str(ROOT / "ila_core" / "demo" / "base"), "search": "plan"}
        own["mine.jsonl"] = str(ROOT / "ila_core" / "demo" / "data" / "terse.jsonl")
        assert "43 layers" in finished(*[own.get(word, word) for word in words])
        return
    ranking = finished.json("rankings", "list")[0]["ranking"]
    mine = tmp_path / "mine.json"
    mine.write_text(finished("rankings", "show", ranking, "--json"))
    swap = {"demo": "smoke", "key:0123456789ab": ranking, "mine.json": str(mine)}
    swap["key:fedcba987654"] = (
        f"key:{finished.json('run', 'smoke')['steps']['finetune ila seed 0']}"
    )
    swap["merged"] = str(tmp_path / "merged")
    swap["report.html"] = str(tmp_path / "report.html")
    swap["exported"] = swap["my/adapter"] = str(tmp_path / "exported")
    swap["lima"] = "terse"
    if "my/adapter" in words:  # a configuration is verified like what is trained from it
        asked = words[words.index("--policy") :]
        asked = [swap.get(word, word) for word in asked]
        finished("export", ranking, "--to", "peft", *asked, "--out", swap["exported"])
    words = [swap.get(word, word) for word in words]
    if "publish" in words:  # would change the shared home too
        finished = finished.copied(tmp_path / "home")
    if "--refresh" in words:  # would change the shared home; test_cache does it in its own
        words = words[: words.index("--refresh")]
    if "--set" in words:
        words[0] = "plan"
    assert finished(*words)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "dem"], "unknown profile 'dem': did you mean 'demo'"),
        (["run", "smoke", "--set", "finetune.lora.lrr=1"], "did you mean 'finetune.lora.lr'"),
        (["run", "smoke", "--set", "finetune.lora.lr=high"], "finetune.lora.lr"),
        (["run", "smoke", "--set", "finetune.arms.1.policy=ilaa"], "unknown policy 'ilaa'"),
        (["run", "smoke", "--set", "datasets.0.source=no.jsonl"], "no.jsonl does not exist"),
        (["run", "smoke", "--set", "datasets.0.source=lma"], "dataset, file or folder 'lma'"),
        (["run", "smoke", "--refresh", "stage9", "--reason", "x"], "none of this run's steps"),
        (["run", "smoke", "--refresh", "stage1"], "--refresh needs --reason"),
        (["run", "smoke", "--reason", "x"], "give --refresh STEP too"),
        (["plan", "smoke", "--set", "datasets.0.source=lma"], "dataset, file or folder 'lma'"),
        (["plan", "smoke", "--set", "finetune.arms.3.like=null"], "in `like:`"),
        (["plan", "smoke", "--set", "finetune.method=lore"], "method: 'lore' is not one of"),
        (["plan", "smoke", "--set", "search.scorer=ilo"], f"'ila'? Known: {SCORERS}"),
        (["plan", "smoke", "--set", "search.evidence.scorers=[siz]"], f"'size'? Known: {SCORERS}"),
        (["control", "smoke", "--set", "search.scorer=ilo"], "unknown scorer 'ilo'"),
        (["reproduce", "dem"], "unknown profile 'dem': did you mean 'demo'"),
        (["plan", "smoke", "--set", "finetune.lora.lr=.inf"], "finite number"),
        (["plan", "smoke", "--set", "search.stage1.optimizer.batch_size=1000"], "given 1,000, and"),
        (["plan", "smoke", "--set", "finetune.optimizer.batch_size=1000"], "finetune.optimizer.ba"),
        (["plan", "smoke", "--set", "search=[]"], "search: Input should be a valid dictionary"),
        (["plan", "smoke", "--set", "search.stage1.lora.r=100000"], "has a rank above "),
        (["plan", "smoke", "--set", "finetune.lora.r=1000"], "finetune.lora.r: given 1,000"),
        (stated("rope_theta: ten"), "of its architecture"),
        (stated("num_attention_heads: 0"), "architecture: "),
        (stated("hidden_act: relu9"), "KeyError: 'relu9'"),
        (["plan", "smoke", "--set", "model.architecture.model_type=[a]"], "given ['a'], which"),
        (stated("dtype: nope"), "architecture: "),
        (["plan", "smoke", "--set", "search.seeds=[1, 1]"], "1 given more than once"),
        (["plan", "smoke", "--set", "finetune.arms.1.name=base"], "the untrained model"),
        (["report", "smoke"], "no run of profile 'smoke' has finished yet"),
        (["rankings", "show", "key:0123456789ab"], "no finished ranking has key"),
        (["rankings", "show", "nowhere.json"], "nowhere.json is no file: give the ranking.json"),
        (["export", "nowhere.json", "--to", "peft", "--out", "x"], "nowhere.json is no file"),
        (["finetune", "smoke", "--ranking", "nowhere.json"], "nowhere.json is no file"),
        (["finetune", "smoke", "--out", "README.md"], "README.md: Not a directory"),
        (["rankings", "show", "mistral"], "give name@alias, name/version, key:<12 hex>"),
    ],
)
def test_wrong_input_exits_with_2(ila, arguments, message):
    error = ila(*arguments, expect=2)
    assert message in error
    assert "Traceback" not in error


OF_EACH_COMMAND = [
    "run smokey",
    "plan smokey",
    "search smoke --set nonsense",
    "control smokey",
    "reproduce smoke fig9",
    "finetune smoke --fit money=3",
    "merge smoke key:0123456789ab --out merged",
    "forecast smokey",
    "tune smoke --set finetune.tune=null",
    "report smoke",
    "gc --older-than soon",
    "export mistral --to peft --out exported",
    "verify smokey",
    "evaluate smoke --benchmarks mmul",
    "compare smoke/base",
    "decide smoke --against smoke/base --rule forgetting",
    "rankings show mistral",
    "rankings publish mistral --name x",
    "rankings pull mistral --out x.json",
    "rankings adopt",
    "rankings retire mistral --reason x",
    "rankings lineage mistral",
    "rankings compare mistral mistral",
    "servers account ann --role redaer",
    "servers up --prefect nobody",
    "servers deploy --gpus 0",
]


@pytest.mark.parametrize("command", OF_EACH_COMMAND)
def test_wrong_input_in_a_process_of_its_own_is_no_traceback(ila, command):
    code, out, err = ila.in_a_process(*command.split())
    assert code == 2, err
    assert out == "" and "Traceback" not in err
    assert not (ila.home / "mlflow.db").exists(), "nothing was begun"


def test_every_command_has_its_wrong_input():
    commands = get_command(app)
    groups = {name: c for name, c in commands.commands.items() if hasattr(c, "commands")}
    found = {name for name in commands.commands if name not in groups}
    found |= {f"{group} {name}" for group, c in groups.items() for name in c.commands}
    # These are given nothing, or numbers, or names that only a server can refuse.
    without = {"doctor", "ui", "rankings list", "servers down", "servers reserve"}
    given = {name for name in found for command in OF_EACH_COMMAND if command.startswith(name)}
    assert found - given == without


def test_a_malformed_row_is_named(ila, tmp_path):
    data = tmp_path / "bad.jsonl"
    bad = '{"prompt": 3, "response": "b"}\n' * 11
    data.write_text('{"prompt": "a", "response": "b"}\n' + bad)
    error = ila("run", "smoke", "--set", f"datasets.0.source={data}", expect=2)
    assert f"11 of 12 rows of {data} cannot be read; allowed are 10" in error
    assert f"the first: {data}, row 2, field 'prompt': given int 3; allowed is a text" in error


@pytest.mark.slow
def test_a_split_too_small_for_the_gates_is_named_before_stage_1_trains(ila, tmp_path):
    data = tmp_path / "few.jsonl"
    rows = (ROOT / "ila_core/demo/data/terse.jsonl").read_text().splitlines()[:12]
    data.write_text("\n".join(rows))
    error = ila("search", "smoke", "--set", f"datasets.0.source={data}", expect=2)
    assert (
        "ila: stage1 terse seed 0: ila would read the split 'gate', whose 1 conversations are "
        "fewer than one batch of search.stage2.batch_size 4"
    ) in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_a_stage_1_that_was_not_stable_is_said_wherever_the_ranking_is_shown(finished):
    answer = finished.json("run", "smoke")
    stable = finished.json("rankings", "show", answer["ranking"])["stable"]
    ended = [f"{d} seed {s}" for d, seeds in stable.items() for s, x in seeds.items() if not x]
    assert "terse seed 0" in ended  # 8 steps are no training
    said = f"Stage 1 was not stable when it ended on {' and '.join(ended)}: scores may still move."
    assert said in answer["headline"]
    assert said in Path(answer["report"]).read_text()
    assert said in finished("rankings", "show", answer["ranking"])


@pytest.mark.slow
def test_layers_that_seeds_disagree_on_are_shown(finished, tmp_path):
    key = finished.json("rankings", "list")[0]["ranking"]
    assert "one search seed only" in finished("rankings", "show", key)
    ranking = finished.json("rankings", "show", key)
    places = sorted(ranking["layers"], key=lambda layer: -layer["scores"]["terse"]["0"])
    last, first = places[31]["name"], places[32]["name"]  # on either side of the cut
    for dataset in ranking["score_keys"]:
        ranking["score_keys"][dataset]["1"] = "another"
        ranking["stable"][dataset]["1"] = True
    swapped = {last: places[32], first: places[31]}
    seconds = [swapped.get(x["name"], x)["scores"]["terse"]["0"] for x in ranking["layers"]]
    for layer, second in zip(ranking["layers"], seconds, strict=True):
        for dataset, scores in layer["scores"].items():
            scores["1"] = second if dataset == "terse" else scores["0"]
    (tmp_path / "two.json").write_text(json.dumps(ranking))
    shown = finished("rankings", "show", str(tmp_path / "two.json"))
    assert "whether to keep 2 on terse, 0 on instruct and 0 on dialogue of 43 layers" in shown
    assert "unsure on" in shown
    marked = {line.split()[0] for line in shown.splitlines() if line.rstrip().endswith("terse")}
    assert {last, first} <= marked


def test_an_unreachable_mlflow_stops_the_run_before_any_work(ila):
    error = ila("run", "smoke", expect=1, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert "MLflow at http://127.0.0.1:9 cannot be used" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ILA_MICRO_BATCH", "eight", "ILA_MICRO_BATCH=eight: Input should be a valid integer"),
        ("ILA_EVAL_BATCH", "0", "ILA_EVAL_BATCH=0: Input should be greater than or equal to 1"),
        ("ILA_DEVICE", "cuda:1", "CUDA_VISIBLE_DEVICES"),
        ("ILA_PREFECT", "no", "ILA_PREFECT=no: Input should be 'on' or 'off'"),
        ("ILA_CHECKPOINT_SECONDS", "-1", "greater than or equal to 0"),
    ],
)
def test_a_wrong_variable_is_named(ila, variable, value, message):
    error = ila("plan", "smoke", expect=2, **{variable: value})
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("mssql+pymssql://me:secret@127.0.0.1/mlflow", "needs the package pymssql"),
        ("sqlite:///{tmp}/damaged.db", "cannot be read as MLflow's database"),
    ],
)
def test_an_unusable_store_is_one_message(ila, tmp_path, uri, message):
    (tmp_path / "damaged.db").write_bytes(b"no database at all" * 100)
    error = ila("plan", "smoke", expect=1, MLFLOW_TRACKING_URI=uri.format(tmp=tmp_path))
    assert message in error
    assert "secret" not in error and "Traceback" not in error


def test_dropped_rows_are_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("ILA_HOME", str(tmp_path))
    runtime, profile = RuntimeConfig.from_env(), load_profile("smoke", ["data.max_length=16"])
    prepare = ila_pipeline(profile, Lock(tmp_path, online=True)).data["terse"]
    logging.getLogger("ila").setLevel(logging.INFO)
    with followed():
        run_here([prepare], Store(runtime, "demo"), runtime)
    said = capsys.readouterr().err
    assert "terse: left out: " in said and "nothing left after truncation" in said
    assert "of the tokens are gone" in said and "answers lost their end" in said


def test_a_model_without_linear_layers(ila, tmp_path):
    tree = yaml.safe_load(shipped("models")["demo"].read_text())
    # GPT-2's blocks are Conv1D, not Linear.
    tree["architecture"] = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 1}
    tree["lm_head"] = "untie"
    (tmp_path / "gpt.yaml").write_text(yaml.safe_dump(tree))
    error = ila("plan", "smoke", "--set", f"model={tmp_path / 'gpt.yaml'}", expect=2)
    assert "have no linear layers" in error


def test_offline_plan_of_the_paper(ila):
    plan = ila.json("plan", "llama2-7b-no_robots")
    assert plan["layers"] == 225
    assert {step["state"] for step in plan["steps"]} == {"UNKNOWN"}
    assert all(step["reason"] for step in plan["steps"])
    assert "is not known" in plan["steps"][0]["reason"]


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from flows.cli.app import app\n"
        "try: app(['--help'])\n"
        "finally: assert not {'torch','prefect','mlflow','pydantic','yaml'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_doctor_answers(ila):
    checks = {check["name"]: check for check in ila.json("doctor")}
    assert checks["torch"]["state"] == "ok"
    assert checks["MLflow"]["state"] == "ok"
