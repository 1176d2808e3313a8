"""Profiles: every shipped one loads, and whatever is wrong in one is named."""

import pytest
import yaml

from ila_core.config.load import load_model_config, load_profile, shipped, written
from ila_core.errors import UserError

RUNS, MODELS = shipped("runs"), shipped("models")
PAPER = {
    *(
        f"{m}-{d}"
        for m in ("llama2-7b", "mistral-7b")
        for d in ("lima", "no_robots", "alpaca_gpt4")
    ),
    *(f"{m}-{d}" for m in ("llama2-13b", "llama3.1-8b") for d in ("lima", "no_robots")),
}


def test_all_profiles_of_the_paper_are_there():
    assert set(RUNS) == PAPER | {"demo", "smoke", "stories3m-real"}
    assert set(MODELS) == {
        *("llama2-7b", "llama2-13b", "llama3.1-8b", "mistral-7b", "stories3m", "demo"),
    }


@pytest.mark.parametrize("name", sorted(RUNS))
def test_every_run_profile_loads(name):
    profile = load_profile(name)
    assert profile.name == name
    assert profile.description


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_profile_loads(name):
    assert load_model_config(name).name == name


@pytest.mark.parametrize("name", sorted(PAPER))
def test_paper_profiles_say_where_each_written_value_comes_from(name):
    profile = load_profile(name)
    tree, _ = written(name)
    leaves = {*_leaves({k: tree[k] for k in ("search", "finetune")})} - {"finetune.dataset"}
    # A block's source is that of everything in it.
    assert all(any(f"{x}.".startswith(f"{s}.") for s in profile.sources) for x in leaves)
    assert all(any(f"{x}.".startswith(f"{s}.") for x in leaves) for s in profile.sources)
    assert all(s.startswith(("paper", "ours")) for s in profile.sources.values())
    assert profile.search.datasets == ("lima", "no_robots", "alpaca_gpt4")
    assert profile.search.stage1.stability.floor == 1.0  # the full schedule
    assert profile.search.stage2.rows == "train"
    assert next(arm for arm in profile.finetune.arms if arm.policy == "ila").source == "no_robots"


def test_appendix_b():
    published = {  # learning rate and epochs of LoRA
        "llama2-7b": {"no_robots": (1e-3, 3), "lima": (1e-3, 20), "alpaca_gpt4": (2e-4, 1.5)},
        "mistral-7b": {"no_robots": (2e-4, 2), "lima": (2e-4, 5), "alpaca_gpt4": (2e-4, 5)},
    }
    for model, schedules in published.items():
        for dataset, (lr, epochs) in schedules.items():
            profile = load_profile(f"{model}-{dataset}")
            for method in (profile.finetune.lora, profile.finetune.adalora):
                assert (method.lr, method.epochs, method.dropout) == (lr, epochs, 0.1)
                assert method.r == 32
            searched = profile.search.schedules
            assert {d: (s.lr, s.epochs) for d, s in searched.items()} == schedules
    optimizer = profile.finetune.optimizer
    assert (optimizer.beta1, optimizer.beta2, optimizer.weight_decay) == (0.9, 0.99, 0.1)
    assert (optimizer.schedule, optimizer.warmup_ratio) == ("cosine", 0.01)
    flagged = load_profile("mistral-7b-alpaca_gpt4").sources["finetune.lora"]
    assert "outside its own grid" in flagged


def test_overrides_reach_nested_fields_and_list_items():
    profile = load_profile(
        "smoke", ["finetune.lora.lr=1e-4", "search.seeds=[3, 4]", "finetune.arms.3.seed=7"]
    )
    assert profile.finetune.lora.lr == 1e-4
    assert profile.search.seeds == (3, 4)
    assert profile.finetune.arms[3].seed == 7
    assert load_profile("smoke", ["model=stories3m"]).model.name == "stories3m"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("finetune.lora.lrr=1", "'finetune.lora.lrr': did you mean 'finetune.lora.lr'"),
        ("fintune.lr=1", "unknown field 'fintune': did you mean 'finetune'"),
        ("finetune.lora.lr=high", r"finetune.lora.lr: .*number.*given 'high'"),
        ("finetune.arms.9.seed=1", "the list has items 0 to 3"),
        ("finetune.lora.lr", "write field.subfield=value"),
        (
            "finetune.lora.epochs=2",
            "^[^ ]*: finetune.lora: give one of `epochs` and `steps`, not both$",
        ),
        ("finetune.dataset=limo", "'limo' is not one of"),
        ("data.gate_fraction=0", "hold rows back"),
        ("finetune.arms.3.like=random", "'random' is not one of"),
        ("model=demmo", "unknown model 'demmo': did you mean 'demo'"),
        ("finetune.lora.steps=true", r"finetune\.lora\.steps: given True; allowed is a number"),
        ("search.seeds=[0, yes]", r"search\.seeds: given \[0, True\]; allowed is a number"),
        ("search.seeds=[4294967296]", r"search\.seeds\.0: .*less than 4294967296"),
        ("finetune.arms.0.seed=-1", r"finetune\.arms\.0\.seed: .*greater than or equal to 0"),
        ("finetune.optimizer.beta1=2", r"finetune\.optimizer\.beta1: .*less than 1"),
        ("finetune.method=Lora", r"finetune\.method: 'Lora' is not one of"),
        ("finetune.other_datasets=[limo]", r"finetune\.other_datasets\.0: 'limo' is not one of"),
        ("name=a b", r"name: allowed are letters, digits, .* \(given 'a b'\)"),
        ("model.revision=12", r"model\.revision: this must be a text: put it in quotes"),
        ("model.architecture.rope_theta=.nan", "given nan; allowed is a finite number"),
        ("finetune.lora.steps=" + "9" * 5_000, "override 'finetune.*: not readable as YAML"),
        ("finetune.lora.steps=0x" + "f" * 99, "a whole number beyond 64 bits"),
        ("search.seeds=" + "[" * 9_000, "nested too deeply"),
        ("search={a: 1, a: 2}", "line 1: 'a' is given in line 1 already"),
        ('description="\\ud800"', "no text that a file or a tokenizer can hold"),
        ('datasets.0.source="a\\0b"', "no text that a file or a tokenizer can hold"),
    ],
)
def test_bad_overrides_are_named(override, message):
    with pytest.raises(UserError, match=message):
        load_profile("smoke", [override])


def test_what_only_looks_like_a_number_or_a_date_stays_a_text():
    for given in ("2024-01-01", "0123456", "1:30", "1e5"):
        assert load_profile("smoke", [f"model.revision={given}"]).model.revision == given
    for given in ("12_8", "0x80", "128", "+128"):
        assert load_profile("smoke", [f"data.max_length={given}"]).data.max_length == 128


def test_unknown_profile_suggests():
    with pytest.raises(UserError, match="unknown profile 'dem': did you mean 'demo'"):
        load_profile("dem")


def test_a_profile_may_be_a_file_and_its_model_too(tmp_path):
    model = load_model_config("demo").model_dump() | {"name": "mine"}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(model))
    text = RUNS["smoke"].read_text().replace("model: demo", "model: model.yaml")
    (tmp_path / "own.yaml").write_text(text)
    profile = load_profile(str(tmp_path / "own.yaml"))
    assert (profile.name, profile.model.name) == ("own", "mine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not readable as YAML: line 1"),
        ("- 1", "is a list"),
        ("model: demo", "required, and not"),
        ("name: a\nmodel: demo\nname: b\n", "line 3: 'name' is given in line 1 already"),
        ("a:\n  - {b: 1}\n  - c: 1\n    c: 2\n", "line 4: 'c' is given in line 3 already"),
        ("a: " + "[" * 5_000 + "]" * 5_000, "nested too deeply"),
        ("a: &a [*a]", "nested too deeply, or within itself by an alias"),
        (
            "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
            + "".join(
                f"a{i + 1}: &a{i + 1} [" + ", ".join([f"*a{i}"] * 10) + "]\n" for i in range(30)
            ),
            "more than 100,000 values",
        ),
        ("a: 2024-13-45\nb: !!timestamp 2024-13-45", "line 2: could not determine a constructor"),
        ("a: !!set {b}", "could not determine a constructor"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("1: a", "the key 1 is no text; put it in quotes"),
        ("a:\n  - {b: .inf}", r"a\.0\.b: given inf; allowed is a finite number"),
        ("a: " + "9" * 5_000, "not readable as YAML: .*digits"),
        ("\x00", "not readable as YAML"),
    ],
)
def test_malformed_files_are_named(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_profile(str(path))
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_missing_variable(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="does not exist"):
        load_profile("nowhere/own.yaml")
    path = tmp_path / "variable.yaml"
    path.write_text("description: ${ILA_NOT_SET}\n")
    monkeypatch.delenv("ILA_NOT_SET", raising=False)
    with pytest.raises(UserError, match="ILA_NOT_SET"):
        load_profile(str(path))


def _leaves(tree, prefix=""):
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}.")
        else:
            yield path


def test_a_block_that_the_file_leaves_out_can_be_overridden():
    profile = load_profile("demo", ["evaluate.mmlu.shots=3", "evaluate.mmlu.path=x"])
    assert (profile.evaluate.mmlu.shots, profile.evaluate.mmlu.path) == (3, "x")
    with pytest.raises(
        UserError, match=r"evaluate\.mmlu\.shot.*did you mean 'evaluate.mmlu.shots'"
    ):
        load_profile("demo", ["evaluate.mmlu.shot=3"])
    with pytest.raises(UserError, match=r"unknown field 'evaluate\.mmul'"):
        load_profile("demo", ["evaluate.mmul.shots=3"])


def test_overrides_reach_what_a_file_leaves_to_its_defaults(tmp_path):
    short = tmp_path / "short.yaml"
    short.write_text("model: demo\ndatasets: [lima]\n")
    profile = load_profile(
        str(short), ["search.schedules.lima.lr=1e-3", "finetune.optimizer.batch_size=4"]
    )
    assert profile.search.schedules["lima"].lr == 1e-3
    assert profile.finetune.optimizer.batch_size == 4
    with pytest.raises(UserError, match=r"finetune\.arms is left to its default; give the whole"):
        load_profile(str(short), ["finetune.arms.0.seed=3"])
    with pytest.raises(UserError, match=r"unknown field 'search\.stage1\.lorra'"):
        load_profile(str(short), ["search.stage1.lorra.r=3"])
