"""MMLU and HellaSwag from local files: lm-eval's own numbers, and errors that name the line."""

import json
import random
import shutil

import pytest
import torch

from ila_core.config import RuntimeConfig
from ila_core.config.load import load_model_config
from ila_core.errors import UserError
from ila_core.evaluate.lm_eval_tasks import (
    HELLASWAG,
    MMLU,
    read_hellaswag,
    read_mmlu,
    subjects,
    write_hellaswag,
    write_mmlu,
)
from ila_core.evaluate.multiple_choice import QuestionSet, evaluate_choices
from ila_core.evaluate.subject import Subject
from ila_core.models.loading import load_base, load_tokenizer

pytestmark = [
    # Of lm-eval 0.4.13 and datasets 5.2, beside Python 3.11.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
ROW = '"What, is it?",a,b,c,d,{}\n'
STORY = {"activity_label": "Skiing", "ctx": "A man skis. he", "endings": list("abcd"), "label": 2}


@pytest.fixture
def folder(tmp_path):
    """Two subjects of three questions."""
    for subject in ("anatomy", "virology"):
        for split, letters in (("dev", "ABCDA"), ("test", "CDB")):
            path = tmp_path / split / f"{subject}_{split}.csv"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(ROW.format(x) for x in letters))
    return tmp_path


@pytest.fixture(scope="module")
def demo():
    config = load_model_config("demo")
    return load_base(config, "cpu"), load_tokenizer(config), config


def subject_of(demo, home):
    model, tokenizer = demo[:2]
    runtime = RuntimeConfig(home=home, tracking_uri="", eval_batch=8, progress=False)
    return Subject(model, tokenizer, "demo", runtime, lambda fraction: None)


@pytest.mark.slow
def test_equals_lm_evals_own_evaluation_and_leaves_the_generators_alone(folder, demo):
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    out = folder / "tasks"
    write_mmlu(out, 5, read_mmlu(folder, 5), None)
    stories = folder / "stories.jsonl"
    stories.write_text("".join(json.dumps(STORY | {"label": n % 4}) + "\n" for n in range(5)))
    write_hellaswag(out, 0, read_hellaswag(stories), None)
    subject = subject_of(demo, folder)
    subject.model.train()
    torch.manual_seed(7)
    random.seed(7)
    before = torch.get_rng_state(), random.getstate()
    ours = {
        name: evaluate_choices(subject, name, out, name, chance=0.25, resolved={"limit": None})
        for name in (MMLU, HELLASWAG)
    }
    assert subject.model.training
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    subject.model.eval()
    theirs = evaluator.simple_evaluate(
        HFLM(pretrained=subject.model, tokenizer=subject.tokenizer, batch_size=2),
        tasks=[MMLU, HELLASWAG],
        task_manager=TaskManager(include_path=str(out), include_defaults=False),
        bootstrap_iters=0,
    )
    for name, result in ours.items():
        assert result.value == pytest.approx(theirs["results"][name]["acc,none"])
        for item in result.items:
            group, _, number = item.id.partition("/")
            task = f"{MMLU}_{group}" if name == MMLU else name
            sample = theirs["samples"][task][int(number)]
            own = [answer[0][0] for answer in sample["resps"]]
            assert item.log_likelihoods == pytest.approx(own, abs=1e-3)
            assert item.value == sample["acc"]
    assert len(ours[MMLU].items) == 6 and ours[MMLU].comparable["task_versions"] == ["1"]
    assert list(ours[MMLU].groups) == ["anatomy", "virology"]
    assert ours[MMLU].counts == {"prompts cut": 0}


def test_a_limit_asks_the_first_questions_and_a_short_context_cuts_prompts(folder, demo):
    write_mmlu(folder / "tasks", 5, read_mmlu(folder, 5), None)
    subject = subject_of(demo, folder)
    subject.model.config.max_position_embeddings, kept = 40, 512
    try:
        found = evaluate_choices(
            subject, "mmlu", folder / "tasks", MMLU, chance=0.25, resolved={"limit": 1}
        )
    finally:
        subject.model.config.max_position_embeddings = kept
    assert [item.id for item in found.items] == ["anatomy/0", "virology/0"]
    assert found.counts == {"prompts cut": 2}


def test_a_data_file_is_named_by_its_content(folder):
    for _ in range(2):
        write_mmlu(folder / "tasks", 5, read_mmlu(folder, 5), None)
    before = {p.name for p in (folder / "tasks/data").iterdir()}
    assert len(before) == 4
    path = folder / "test/anatomy_test.csv"
    path.write_text(path.read_text().replace("What", "Who"))
    write_mmlu(folder / "tasks", 5, read_mmlu(folder, 5), None)
    assert len({p.name for p in (folder / "tasks/data").iterdir()} - before) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.write_text(ROW.format("A") + '"What'), "line 2: .*is it cut off"),
        (lambda f: f.write_text(ROW.format("A") + "What,a,b\n"), "line 2: 3 columns .*cut off"),
        (lambda f: f.write_text(ROW.format("E")), "line 1: answer 'E'; allowed are A, B, C and D"),
        (lambda f: f.write_text(""), "is empty"),
        (lambda f: f.write_bytes(b"\xff\xfe"), "not UTF-8"),
        (lambda f: f.rename(f.with_name("anatomie_test.csv")), "did you mean 'anatomy'"),
        (lambda f: shutil.rmtree(f.parent), "has no test/"),
        (lambda f: (f.parents[1] / "dev/anatomy_dev.csv").unlink(), "anatomy_dev.csv is missing"),
        (
            lambda f: (f.parents[1] / "dev/anatomy_dev.csv").write_text(ROW.format("A")),
            "has 1 examples; 5 shots need",
        ),
    ],
)
def test_mmlu_files_that_will_not_do(folder, change, message):
    change(folder / "test" / "anatomy_test.csv")
    with pytest.raises(UserError, match=message):
        read_mmlu(folder, 5)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{**STORY, "label": 4}], "row 1: label '4'; allowed are 0 to 3"),
        ([STORY, {**STORY, "endings": ["a"]}], "row 2: `endings` must be 4 texts"),
        ([{"label": 1}], "row 1: neither `ctx` nor `ctx_a`"),
        ([{**STORY, "ind": 4}, {**STORY, "ind": 4}], "ind.: 4 is that of row 1 too"),
        ([], "is empty"),
    ],
)
def test_hellaswag_files_that_will_not_do(tmp_path, lines, message):
    path = tmp_path / "h.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match=message):
        read_hellaswag(path)
    path.write_text(json.dumps(STORY) + "\n" + json.dumps(STORY)[:40])
    with pytest.raises(UserError, match="row 2: not JSON"):
        read_hellaswag(path)
    story = {**STORY, "ctx_a": "One\u2028line."}
    path.write_text(json.dumps(story, ensure_ascii=False) + "\n")
    assert [row["ctx_a"] for row in read_hellaswag(path)] == [story["ctx_a"]]
    with pytest.raises(UserError, match="is no file"):
        read_hellaswag(tmp_path / "none")


def test_joined_and_separate_contexts_are_the_same_question(tmp_path):
    """`ctx` is HellaSwag's own join of `ctx_a` and `ctx_b`."""
    from datasets import Dataset
    from lm_eval.tasks.hellaswag.utils import process_docs

    path = tmp_path / "h.jsonl"
    apart = {**STORY, "ctx_a": "A man skis.", "ctx_b": "he", "ctx": "A man skis. He"}
    path.write_text(json.dumps(apart) + "\n" + json.dumps({**STORY, "ctx": "A man skis. He"}))
    first, second = process_docs(Dataset.from_list(read_hellaswag(path)))
    assert first["query"] == second["query"] == "Skiing: A man skis. He"


def test_lm_eval_names_57_subjects():
    assert len(subjects()) == 57


def test_the_hubs_rows_are_asked_for_at_a_commit(tmp_path):
    write_hellaswag(tmp_path, 0, None, "abc123")
    assert "revision: abc123" in (tmp_path / f"{HELLASWAG}.yaml").read_text()
    write_mmlu(tmp_path, 5, None, "abc123")
    assert len(list(tmp_path.glob("ila_mmlu_*.yaml"))) == 57
    assert "dataset_path" not in (tmp_path / "ila_mmlu_virology.yaml").read_text()


def test_questions_are_built_once_in_a_process(folder, demo):
    write_mmlu(folder / "tasks", 5, read_mmlu(folder, 5), None)
    first = QuestionSet.open(folder / "tasks", MMLU, None)
    assert QuestionSet.open(folder / "tasks", MMLU, None) is first
    assert first.ask(*demo[:2], "demo") is first.ask(*demo[:2], "demo")
