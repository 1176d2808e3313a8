"""`ila evaluate`, `compare` and `decide` as commands: every benchmark, every kind of target."""

import json
import re
import threading

import pytest

from tests.conftest import kill, wait_until
from tests.helpers.judge_server import Act, JudgeServer, rate, say

pytestmark = pytest.mark.slow

ROW = '"Which is it, {}?",a,b,c,d,{}\n'
ALL = "held_out_loss,general_text,instructions,mmlu,hellaswag,vicuna,mt_bench"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """MMLU, HellaSwag and FastChat files of our own wording, as overrides of a profile."""
    folder = tmp_path_factory.mktemp("benchmarks")
    for subject in ("anatomy", "virology"):
        for split, letters in (("dev", "ABCDA"), ("test", "CDBAACDB")):
            path = folder / split / f"{subject}_{split}.csv"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(ROW.format(i, x) for i, x in enumerate(letters)))
    story = {"activity_label": "Skiing", "endings": ["a cat", "a dog", "he", "it"]}
    lines = [json.dumps(story | {"ctx": f"He is {n}. It", "label": n % 4}) for n in range(6)]
    (folder / "stories.jsonl").write_text("\n".join(lines))
    for name, turns in (("vicuna", ["Tell me about {}."]), ("mt_bench", ["Why {}?", "And then?"])):
        asked = [
            {"question_id": n, "category": "generic", "turns": [t.format(n) for t in turns]}
            for n in range(4)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(q) + "\n" for q in asked))
    return [
        f"evaluate.mmlu.path={folder}",
        f"evaluate.hellaswag.path={folder / 'stories.jsonl'}",
        f"evaluate.vicuna={{questions: {folder / 'vicuna.jsonl'}}}",
        f"evaluate.mt_bench={{questions: {folder / 'mt_bench.jsonl'}}}",
        "evaluate.judge={kind: local, model: demo}",
        "evaluate.generation.max_new_tokens=6",
    ]


@pytest.fixture(scope="module")
def home(finished, tmp_path_factory):
    return finished.copied(tmp_path_factory.mktemp("evaluated") / "home")


@pytest.fixture(scope="module")
def sets(inputs):
    return [part for override in inputs for part in ("--set", override)]


@pytest.fixture(scope="module")
def answer(home, sets):
    return home.json("evaluate", "smoke/base", "smoke/ila", "--benchmarks", ALL, *sets)


def test_every_benchmark_of_the_base_and_an_arm(answer):
    found = {(e["benchmark"], e["model"]): e for e in answer["evaluations"]}
    assert set(found) == {(b, m) for b in ALL.split(",") for m in ("base", "ila")}
    assert all(e["low"] <= e["value"] <= e["high"] for e in found.values())
    mmlu = found["mmlu", "ila"]
    assert mmlu["items"] == 16 and list(mmlu["groups"]) == ["anatomy", "virology"]
    assert mmlu["at_chance"] and mmlu["chance"] == 0.25
    judge = found["mt_bench", "ila"]["comparable"]["judge"]
    assert judge["local"] and judge["model"] == "demo"


def test_again_it_computes_nothing_and_a_limit_is_another_result(home, sets, answer):
    again = home.json("evaluate", "smoke/base", "smoke/ila", "--benchmarks", ALL, *sets)
    assert again == answer
    some = home.json("evaluate", "base", "--profile", "smoke", "--limit", "2", "--benchmarks",
                     "mmlu,mt_bench,held_out_loss", *sets)  # fmt: skip
    assert {e["items"] for e in some["evaluations"]} == {4, 2}
    whole = {e["key"] for e in answer["evaluations"]}
    assert not whole & {e["key"] for e in some["evaluations"]}


def test_an_adapter_from_elsewhere_is_what_it_was_copied_from(home, sets, answer, tmp_path):
    mine = str(tmp_path / "mine")
    trained = home.json("finetune", "smoke", "--source", "instruct", "--out", mine)
    more = ["--profile", "smoke", "--benchmarks", "mmlu", *sets]
    found = home.json("evaluate", mine, *more)["evaluations"]
    own = [e for e in answer["evaluations"] if (e["benchmark"], e["model"]) == ("mmlu", "ila")]
    assert found[0]["value"] == own[0]["value"] and found[0]["model"] == "mine"
    key = f"key:{trained['runs'][0]['key']}"
    by_key = home.json("evaluate", key, *more)["evaluations"]
    assert by_key[0]["key"] == own[0]["key"], "the profile's own arm, which is evaluated already"


def test_compare_says_how_sure_it_is_and_decide_ends_with_its_answer(home, sets, answer, tmp_path):
    compared = home.json("compare", "ila", "base", "--profile", "smoke", *sets)
    pairs = {(c["benchmark"], c["a"], c["b"]) for c in compared["compared"]}
    assert pairs == {(benchmark, "ila", "base") for benchmark in ALL.split(",")}
    rule = tmp_path / "rule.yaml"
    for margin, code in ((-9.0, 0), (9.0, 3)):
        rule.write_text(
            f"confidence: 0.95\nrequire: [{{benchmark: general_text, at_least: {margin}}}]\n"
        )
        home("decide", "smoke/ila", "--against", "smoke/base", "--rule", str(rule), *sets,
             expect=code)  # fmt: skip
    rule.write_text("confidence: 0.95\nrequire: [{benchmark: mmlu, at_least: 0.0}]\n")
    home("decide", "smoke/ila", "--against", "smoke/base", "--rule", str(rule), *sets, expect=4)


def test_what_was_not_evaluated_is_named(home, sets):
    changed = ["--set", "evaluate.mmlu.shots=3"]
    decide = ["decide", "smoke/ila", "--against", "smoke/base", *sets, *changed]
    err = home(*decide, expect=2)
    command = re.search(r"`ila (evaluate smoke/ila --benchmarks [a-z_,]+)`", err)
    assert command is not None and "mmlu" in command[1], err
    home(*command[1].split(), *sets, *changed)
    assert "`ila evaluate smoke/base" in home(*decide, expect=2)
    limited = ["--set", "evaluate.limit=3"]
    assert "a look decides nothing" in home(*decide, *limited, expect=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "smoke", "--benchmarks", "mmul"], "did you mean 'mmlu'"),
        (["evaluate", "smoke/ilaa"], "did you mean 'ila'"),
        (["evaluate", "tests", "--profile", "smoke"], "holds no adapter_config.json"),
        (["evaluate", "smoke/base", "--benchmarks", "vicuna"], "vicuna needs its questions"),
        (["evaluate", "smoke/ila", "demo/ila"], "give things of one profile"),
        (["evaluate", "key:0123456789ab", "--profile", "smoke"], "no finished step has"),
        (["compare", "smoke/ila"], "give two models or more"),
        (["compare", "smoke/ila", "smoke"], "smoke stands for base, all, ila, intersection"),
        (
            ["decide", "smoke", "--against", "smoke/base", "--rule", "forgetting"],
            "smoke stands for base, all",
        ),
        (
            ["evaluate", "smoke", "--jobs", "2", "--refresh", "evaluation", "--reason", "x"],
            "refresh first",
        ),
        (["compare", "smoke/ila", "smoke/all", "--pairwise"], "give --benchmarks vicuna or mt_be"),
        (["compare", "smoke/ila", "smoke/ila", "--pairwise", "--benchmarks", "vicuna"], "two mod"),
        (["evaluate", "ila_core/demo/base"], "--benchmarks mmlu .* --set model.source=/"),
        (["evaluate", "ila_core/demo/base", "--profile", "stories3m-real"], "is a base model, and"),
    ],
)
def test_bad_input(home, arguments, message):
    assert re.search(message, home(*arguments, expect=2))


def test_an_adapter_of_another_base_is_refused(home, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "other"
    home.json("finetune", "smoke", "--source", "instruct", "--out", str(folder))
    config = json.loads((folder / "adapter_config.json").read_text())
    weights = load_file(folder / "adapter_model.safetensors")
    name = next(n for n in weights if "lora_A" in n)
    cut = weights | {name: weights[name][:, :-1].contiguous()}
    save_file(cut, folder / "adapter_model.safetensors")
    err = home("evaluate", str(folder), "--profile", "smoke", expect=2)
    assert "is an adapter of another base than demo" in err
    config["base_model_name_or_path"] = "someone/another-base"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    err = home("evaluate", str(folder), "--profile", "smoke", expect=2)
    assert "says 'someone/another-base', and this is 'demo'" in err
    (folder / "adapter_config.json").write_text("{")
    assert "not JSON" in home("evaluate", str(folder), "--profile", "smoke", expect=2)


def test_broken_weights_are_an_error_and_no_score(home, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "broken"
    home.json("finetune", "smoke", "--source", "instruct", "--out", str(folder))
    weights = load_file(folder / "adapter_model.safetensors")
    broken = {n: torch.full_like(w, torch.nan) if "lora_B" in n else w for n, w in weights.items()}
    save_file(broken, folder / "adapter_model.safetensors")
    for benchmark, message in (("instructions", "a logit is NaN"), ("general_text", "is nan")):
        err = home("evaluate", str(folder), "--profile", "smoke", "--benchmarks", benchmark,
                   expect=1)  # fmt: skip
        assert message in err


@pytest.mark.never_rerun
def test_a_kill_in_the_middle_of_judging_repeats_no_answered_request(home, inputs, tmp_path):
    """4 questions of 2 turns, each graded twice: 16 requests, one at a time."""
    judge = "evaluate.judge={kind: openai, model: gpt-4-0613, repeats: 2}"
    overrides = [o for o in inputs if not o.startswith("evaluate.judge")] + [judge]
    sets = [part for override in overrides for part in ("--set", override)]
    made = home.copied(tmp_path / "home")
    command = ["evaluate", "smoke/base", "--benchmarks", "mt_bench", *sets]

    asked = threading.Event()

    def graded(number, request):
        if number != 5:
            return rate(5)
        asked.set()
        return Act(hang=True)

    server = JudgeServer(graded)
    try:
        environment = {**server.environment, "ILA_JUDGE_CONCURRENCY": "1"}
        process = made.start(*command, **environment)
        try:
            wait_until(asked.is_set, process)
        finally:
            kill(process)
        (found,) = made.json(*command, **environment)["evaluations"]
    finally:
        server.close()
    assert found["value"] == 5 and found["counts"]["judged"] == 4
    assert len(server.requests) == 16 + 1, "the one under way when it was killed"
    key = server.environment["OPENAI_API_KEY"].encode()
    files = [p for p in made.home.rglob("*") if p.is_file()]
    assert not [p for p in files if key in p.read_bytes()], "the key is written nowhere"


def test_an_answer_file_is_graded_beside_ours(home, sets, tmp_path):
    def file(name, *numbers):
        path = tmp_path / f"{name}.jsonl"
        rows = [{"question_id": n, "choices": [{"turns": ["Because.", "So."]}]} for n in numbers]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    theirs = file("theirs", 3, 2, 1, 0)
    more = ["--profile", "smoke", "--benchmarks", "mt_bench", *sets]
    found = home.json("evaluate", theirs, "base", *more)["evaluations"]
    assert [(e["model"], e["items"]) for e in found] == [("theirs", 4), ("base", 4)]
    text = home("compare", theirs, "base", *more)
    assert "nobody can say how they were generated: the answers of theirs" in text
    for wrong, message in (
        (file("few", 0, 1, 2), r"has no answer to the questions \(3\)"),
        (file("other", 0, 1, 2, 3, 81), r"not in the question set \(81\)"),
        (file("twice", 0, 1, 1, 2, 3), "1 is there twice"),
    ):
        assert re.search(message, home("evaluate", wrong, *more, expect=2))
    mmlu = home("evaluate", theirs, "--profile", "smoke", "--benchmarks", "mmlu", *sets, expect=2)
    assert "give --benchmarks vicuna or mt_bench, whose questions they answer" in mmlu


@pytest.mark.never_rerun
def test_pairwise_judging_asks_once_for_each_order_within_one_budget(home, inputs, tmp_path):
    """4 questions of one turn, 4 of two, in 2 orders: 8 and 16 requests, one at a time."""
    judge = "evaluate.judge={kind: openai, model: gpt-4-0613, repeats: 1}"
    overrides = [o for o in inputs if not o.startswith("evaluate.judge")] + [judge]
    sets = [part for override in overrides for part in ("--set", override)]
    made = home.copied(tmp_path / "home")
    command = ["compare", "smoke/ila", "smoke/base", "--pairwise", "--benchmarks",
               "vicuna,mt_bench", *sets]  # fmt: skip
    asked, hung = threading.Event(), []

    def prefer_ila(number, request):
        """The first place in one order and the second in the other: one answer in both."""
        if number == 14:
            asked.set()
            hung.append(request)
            return Act(hang=True)
        return say("[[A]]" if (number - len(hung)) % 2 == 0 else "[[B]]")

    server = JudgeServer(prefer_ila)
    try:
        environment = {**server.environment, "ILA_JUDGE_CONCURRENCY": "1"}
        err = made(*command, expect=1, ILA_JUDGE_REQUESTS="10", **environment)
        assert "all in all: 24 requests (0 verdicts are there)" in err
        assert "more than the budget" in err and "budget of 10 requests is used up" in err
        assert len(server.requests) == 10, "one budget for both benchmarks"
        process = made.start(*command, **environment)
        try:
            wait_until(asked.is_set, process)
        finally:
            kill(process)
        found = made.json(*command, **environment)["preferred"]
    finally:
        server.close()
    assert len(server.requests) == 24 + 1, "the one under way when it was killed"
    assert [(x["benchmark"], x["a"], x["b"]) for x in found] == [
        ("vicuna", "ila seed 0", "base"),
        ("mt_bench", "ila seed 0", "base"),
    ]
    assert all(x["wins"] + x["ties"] + x["losses"] == 4 for x in found)
    assert found[0]["wins"] == 4 and found[0]["says"] == "a"


@pytest.mark.never_rerun
@pytest.mark.parametrize("benchmark", ["mmlu", "hellaswag"])
def test_a_kill_in_the_middle_of_multiple_choice_reads_no_prompt_twice(home, tmp_path, benchmark):
    """One prompt a pass; the rest gives the bits that an uninterrupted evaluation gives."""
    for split, count in (("dev", 5), ("test", 150)):
        path = tmp_path / "mmlu" / split / f"anatomy_{split}.csv"
        path.parent.mkdir(parents=True)
        path.write_text("".join(ROW.format(i, "ABCD"[i % 4]) for i in range(count)))
    story = {"activity_label": "Skiing", "endings": ["a cat", "a dog", "he", "it"]}
    lines = [json.dumps(story | {"ctx": f"He is {n}. It", "label": n % 4}) for n in range(100)]
    (tmp_path / "stories.jsonl").write_text("\n".join(lines))
    command = ["evaluate", "smoke/base", "--benchmarks", benchmark,
               "--set", f"evaluate.mmlu.path={tmp_path / 'mmlu'}",
               "--set", f"evaluate.hellaswag.path={tmp_path / 'stories.jsonl'}"]  # fmt: skip
    made, one = home.copied(tmp_path / "killed"), {"ILA_EVAL_BATCH": "1"}
    process = made.start(*command, **one)
    try:
        wait_until(lambda: len(scored(made)) > 20, process)
    finally:
        kill(process)
    before = len(scored(made))
    code, out, err = made.ended(*command, "--json", **one)
    assert code == 0 and f"{before} of " in err and "prompts were scored before" in err
    (found,) = json.loads(out)["evaluations"]
    assert not scored(made), "what is finished needs no such file"
    other = home.copied(tmp_path / "whole")
    (whole,) = other.json(*command, **one)["evaluations"]
    assert found["key"] == whole["key"]
    first, second = (
        max(h.home.rglob("evaluation.json"), key=lambda path: path.stat().st_mtime)
        for h in (made, other)
    )
    assert first.read_bytes() == second.read_bytes()


def scored(ila):
    """The lines of finished passes that lie in the checkpoints."""
    files = list(ila.home.glob("checkpoints/*/scores-*.jsonl"))
    return [line for file in files for line in file.read_text().splitlines(keepends=True)
            if line.endswith("\n")]  # fmt: skip


@pytest.mark.parametrize(
    ("comparable", "said"),
    [
        ({"shots": 5, "limit": None}, ""),
        ({"limit": 3}, " (3 questions a task)"),
        ({"judge": ("gpt-4-0613", False), "prompts": "fastchat"}, ""),
        ({"judge": ("gpt-4-0613", False), "prompts": "own"}, " (judge gpt-4-0613, own prompts)"),
        ({"judge": ("llama", False), "prompts": "fastchat"}, " (judge llama, fastchat prompts)"),
        ({"judge": ("gpt-4", True), "prompts": "fastchat"}, " (local judge, fastchat prompts)"),
    ],
)
def test_only_what_the_paper_measured_stands_in_its_columns(comparable, said):
    from flows.actions.reproduce_tables import _apart_from_the_papers

    if "judge" in comparable:
        model, local = comparable["judge"]
        comparable = {
            "judge": {"model": model, "local": local},
            "prompts": {"wording": comparable["prompts"]},
        }
    assert _apart_from_the_papers(comparable) == said
