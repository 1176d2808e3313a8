"""A model and data on one line: what a plan says of them, in full and in short."""

import csv
import json

import yaml

from tests.conftest import ROOT


def write_questions(path, n=80):
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["question", "answer"])
        rows.writerows([f"What is {i} and one?", f"It is {i + 1}."] for i in range(n))
    return path


def test_every_field_is_printed_with_its_source_and_is_a_profile_itself(ila, tmp_path):
    data = write_questions(tmp_path / "mine.csv")
    line = ("--model", "demo", "--data", str(data), "--set", "finetune.lora.r=8")
    short, full = tmp_path / "short.yaml", tmp_path / "full.yaml"
    text = ila("plan", *line, "--resolved", "--save", str(short))
    assert "      epochs: 20.0  # paper, Appendix B: Llama 2-7B's, by the number of" in text
    assert "    r: 8  # written\n" in text
    assert "    r: 8  # follows from what is written\n" in text  # AdaLoRA's
    assert "  dtype: float32  # the model's config.json" in text
    assert yaml.safe_load(short.read_text()) == {
        "model": "demo",
        "datasets": [str(data)],
        "finetune": {"lora": {"r": 8}},
    }
    full.write_text(text.replace("name: demo-mine", "name: short"))
    planned = ila.json("plan", str(short))
    assert ila.json("plan", str(full)) == planned
    assert [s["step"] for s in planned["steps"]].count("selection intersection") == 0
    sources = ila.json("plan", str(short), "--resolved")["sources"]
    assert sources["finetune.lora.r"] == "written"


def test_what_is_saved_replaces_nothing(ila, tmp_path):
    (tmp_path / "mine.yaml").write_text("kept")
    said = ila("plan", "smoke", "--save", str(tmp_path / "mine.yaml"), expect=2)
    assert "is there already" in said
    assert (tmp_path / "mine.yaml").read_text() == "kept"
    assert "is a .yaml file" in ila("plan", "smoke", "--save", str(tmp_path / "mine.txt"), expect=2)


def test_a_profile_or_a_model_with_data(ila, tmp_path):
    both = ila("plan", "smoke", "--data", "lima", expect=2)
    assert "give the profile smoke, or --model and --data, not both" in both
    for incomplete in ([], ["--data", "lima"]):
        assert "give a profile, such as" in ila("plan", *incomplete, expect=2)
    unknown = ila("plan", "--model", "dem", "--data", "lima", expect=2)
    assert "did you mean 'demo'" in unknown
    assert "or give a hub id (org/name) or a folder" in unknown


def test_a_paper_profile_is_what_appendix_b_has(ila):
    """Its model is planned without a network; what its datasets decide stays open."""
    found = ila.json("plan", "llama2-7b-lima", "--resolved")
    profile, sources = found["profile"], found["sources"]
    lora = profile["finetune"]["adalora"]
    assert (lora["lr"], lora["epochs"], lora["dropout"], lora["r"]) == (1e-3, 20, 0.1, 32)
    assert sources["finetune.lora.epochs"] == "written; paper, Appendix B.2"
    assert sources["search.stage1.optimizer.beta2"] == "paper, Appendix B"
    lines = (ROOT / "profiles" / "runs" / "llama2-7b-lima.yaml").read_text().splitlines()
    assert len(lines) <= 40
    assert json.dumps(profile)  # plain values alone


def test_too_few_rows_are_refused_before_anything_is_trained(ila, tmp_path):
    data = write_questions(tmp_path / "few.csv", n=30)
    words = ["plan", "--model", "demo", "--data", str(data)]
    for field, message in {
        "search.stage1.optimizer.batch_size": "search.stage1.optimizer.batch_size: given 32, and",
        "search.stage2.batch_size": "fewer than one batch of search.stage2.batch_size 32",
        "finetune.optimizer.batch_size": "finetune.optimizer.batch_size: given 32, and",
    }.items():
        assert message in ila(*words, expect=2)
        words += ["--set", f"{field}=8"]
    assert "prepare few" in ila(*words)


def test_validation_rows_and_a_mixture_are_planned_with_keys_of_their_own(ila, tmp_path):
    write_questions(tmp_path / "mine.csv"), write_questions(tmp_path / "more.csv", n=90)
    (tmp_path / "held").mkdir()
    write_questions(tmp_path / "held" / "validation.csv", n=10)
    profile = tmp_path / "p.yaml"
    tree = {"model": "demo", "datasets": [f"{tmp_path}/mine.csv", f"{tmp_path}/more.csv"]}

    def planned(**changed):
        profile.write_text(yaml.safe_dump(tree | changed))
        found = ila.json("plan", str(profile))
        return found["datasets"], {s["step"]: s["key"] for s in found["steps"]}

    _, usual = planned()
    rows, mixed = planned(finetune={"dataset": "mine+more"})
    assert sum(rows["mine+more"]["rows"].values()) == 170
    moved = {step.split()[0] for step, key in mixed.items() if usual.get(step) != key}
    assert moved == {"prepare", "finetune", "held_out_loss", "report"}
    assert mixed["stage1 mine seed 0"] == usual["stage1 mine seed 0"]

    own = {"source": f"{tmp_path}/mine.csv", "held_out": f"{tmp_path}/held::validation"}
    rows, keys = planned(datasets=[own, tree["datasets"][1]])
    assert rows["mine"]["rows"] == {"train": 70, "gate": 0, "held_out": 10}
    assert rows["mine"]["dropped"] == {"its prompt is held out": 10}
    assert keys["prepare mine"] != usual["prepare mine"]
    assert keys["prepare more"] == usual["prepare more"]

    profile.write_text(yaml.safe_dump(tree | {
        "datasets": [own, tree["datasets"][1]], "finetune": {"dataset": "mine+more"},
    }))  # fmt: skip
    said = ila("plan", str(profile), expect=2)
    assert "only mine of these datasets gives the conversations that are held out" in said


def test_what_the_models_files_decide_is_said(ila, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    demo = ROOT / "ila_core" / "demo" / "base"
    model = AutoModelForCausalLM.from_pretrained(demo, tie_word_embeddings=True, dtype="float16")
    model.save_pretrained(tmp_path / "mine")
    tokenizer = AutoTokenizer.from_pretrained(demo)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "mine")
    data = write_questions(tmp_path / "rows.csv")
    said = ila("plan", "--model", str(tmp_path / "mine"), "--data", str(data))
    assert "mine: weights are loaded as bfloat16 (model.dtype)" in said
    assert "mine: the output head, which is the input embedding, is untied" in said
    assert "mine: the tokenizer has no chat template: ILA's own is used" in said


def test_a_scorer_of_weights_alone_needs_no_data(ila):
    line = ("--model", "demo", "--set", "search.scorer=weight_snr")
    found = ila.json("search", *line)
    assert list(found["steps"]) == ["score weight_snr model seed 0", "ranking", "agreement"]
    shown = ila("rankings", "show", found["ranking"], "--keep", "0.5")
    assert "model.layers.0.mlp.down_proj" in shown
    assert "reads what was trained on data: give --data" in ila(
        "search", "--model", "demo", expect=2
    )
    assert "a search of the model alone ends with its ranking" in ila("run", *line, expect=2)
