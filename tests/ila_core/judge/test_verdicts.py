"""Prompts, grades read from replies, stored verdicts, spreads, pairs, a local judge."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from ila_core.compare.chance import interval
from ila_core.compare.judge_spread import judged_again
from ila_core.compare.results import Evaluation, Item
from ila_core.errors import CheckError, UserError
from ila_core.inference.generate import Answer
from ila_core.inference.questions import Question, load_questions
from ila_core.judge.ask import READINGS, Ask, VerdictStore
from ila_core.judge.grade import grade
from ila_core.judge.local_judge import LocalJudge
from ila_core.judge.pairwise import compare
from ila_core.judge.prompts import FIELDS, OWN, SHORT, JudgePrompts
from ila_core.judge.verdict import Verdict
from tests.helpers import spoken, tiny
from tests.helpers.judged import ANSWERS
from tests.helpers.spoken import QUESTIONS, write_lines

OTHERS = tuple(Answer(question_id=q.id, turns=tuple("no" for _ in q.turns)) for q in QUESTIONS)


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("Rating: [[5]]", 5),
        ("Rating: [[7.5]] and so on", 7.5),
        ("Rating: [6]", 6),
        ("See [1] and [2]. Rating: [[4]]", 4),  # the backup pattern only where the first is nowhere
        ("a[0] is wrong. Rating: [3]", 3),
        ("He asks for [[10]]. Rating: [[2]]", 2),
        ("Rating: [[0]]", None),
        ("Rating: [[11]]", None),
        (f"Rating: [[{'9' * 400}]]", None),
        ("Rating: 5", None),
        ("Rating: [[-5]]", None),
        ("Rating: [[five]]", None),
        ("Rating: [[\u0665]]", None),  # another alphabet's five
        ("", None),
    ],
)
def test_a_rating_is_the_last_of_the_published_pattern(text: str, grade: float | None) -> None:
    assert READINGS["grade"].parse(text) == grade


def test_a_preference_is_the_last_letter() -> None:
    parse = READINGS["preference"].parse
    assert parse('"[[A]]" it asks for. [[B]]') == 0
    assert parse("[[A]]") == 1 and parse("[[C]]") == 0.5
    assert parse("[[D]] or [A]") is None


# ---------------------------------------------------------------- prompts


def file_of(prompts: Path, path: Path, **changed: Any) -> Path:
    """A copy of `prompts` with other fields in the rows that `changed` names."""
    rows = map(json.loads, prompts.read_text(encoding="utf-8").splitlines())
    return write_lines(path, *[row | changed.get(row["name"], {}) for row in rows])


def test_the_first_turn_is_shown_alone_and_the_second_with_the_first() -> None:
    prompts = JudgePrompts.load(None)
    first, second = (prompts.messages(QUESTIONS[0], ANSWERS[0], turn)[1] for turn in (1, 2))
    assert "my Write." in first["content"] and "Shorter" not in first["content"]
    assert all(text in second["content"] for text in ("my Write.", "my Shorter."))
    reasoned = prompts.messages(QUESTIONS[1], ANSWERS[1], 1)
    assert "Because." in reasoned[1]["content"] and "reference" in reasoned[0]["content"]
    counted = prompts.messages(QUESTIONS[2], ANSWERS[2], 2)[1]["content"]
    assert counted.count("Reference answer 1") == 2 and "Reference answer 2" in counted


def test_braces_in_an_answer_are_only_text() -> None:
    odd = Answer(question_id=81, turns=("{question} {0} }{", "{answer.__class__}"))
    for turn in (1, 2):
        shown = JudgePrompts.load(None).messages(QUESTIONS[0], odd, turn)[1]["content"]
        assert "{question} {0} }{" in shown


def test_a_file_of_prompts_gives_what_it_says(tmp_path: Path) -> None:
    prompts = JudgePrompts.load(file_of(SHORT, tmp_path / "prompts.jsonl"))
    assert prompts.wording == "fastchat" and list(prompts.templates) == list(FIELDS)
    assert prompts.digest == JudgePrompts.short().digest != JudgePrompts.load(None).digest


def test_our_own_prompts_are_what_they_were() -> None:
    """Their digest is in the keys of evaluations: another word asks for every grade again."""
    own, short = JudgePrompts.load(None), JudgePrompts.short()
    assert (own.wording, short.wording) == ("own", "short")
    assert own.digest == "41e92475631c9336ff45b0f530cfcab9d303a49501dcac10b252365e0f7c500e"
    assert short.digest == "bf16f597c9cc2ee2adbfb9836e54e2ff7dfa4a41a565f80fa3973e518778c4c7"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"prompt_template": "{question}"}, "shows question; 'single-v1' has to show question, an"),
        ({"prompt_template": "{question} {answer} {x}"}, "shows answer, question, x"),
        ({"prompt_template": "{question} {answer.__class__}"}, "answer.__class__"),
        ({"prompt_template": "{question"}, "not a template"),
        ({"prompt_template": 7}, "given int 7"),
        ({"name": "other"}, "no prompt named single-v1"),
    ],
)
def test_a_file_of_other_prompts_is_refused(tmp_path: Path, changed: Any, says: str) -> None:
    path = file_of(OWN, tmp_path / "prompts.jsonl", **{"single-v1": changed})
    with pytest.raises(UserError) as raised:
        JudgePrompts.load(path)
    assert says in str(raised.value)


def test_a_prompt_given_twice_is_refused(tmp_path: Path) -> None:
    path = file_of(OWN, tmp_path / "prompts.jsonl")
    path.write_text(path.read_text() * 2)
    with pytest.raises(UserError, match="row 9, field 'name': 'single-v1' is there twice"):
        JudgePrompts.load(path)


@pytest.mark.real_data
def test_the_published_prompts_are_filled_as_fastchat_fills_them(real_data: Path) -> None:
    folder = real_data / "fastchat"
    prompts = JudgePrompts.load(folder / "judge_prompts.jsonl")
    lines = (folder / "judge_prompts.jsonl").read_text(encoding="utf-8").splitlines()
    rows = {row["name"]: row for row in map(json.loads, lines)}
    assert set(prompts.templates) == set(FIELDS) == set(rows)
    bench = folder / "mt_bench"
    questions = load_questions(bench / "question.jsonl", bench / "reference_answer" / "gpt-4.jsonl")
    for question in questions:
        answer = Answer(question_id=question.id, turns=("one", "two"))
        math = question.category in ("math", "reasoning", "coding")
        name = "single-math-v1" if math else "single-v1"
        refs = dict(zip(("ref_answer_1", "ref_answer_2"), question.reference or (), strict=False))
        one, two = (prompts.messages(question, answer, turn) for turn in (1, 2))
        assert one[0]["content"] == rows[name]["system_prompt"]
        assert one[1]["content"] == rows[name]["prompt_template"].format(
            question=question.turns[0], answer="one", **refs
        )
        assert two[1]["content"] == rows[f"{name}-multi-turn"]["prompt_template"].format(
            question_1=question.turns[0],
            question_2=question.turns[1],
            answer_1="one",
            answer_2="two",
            **refs,
        )


# ---------------------------------------------------------------- verdicts that are kept

ASK = Ask(reading="grade", messages=({"role": "user", "content": "?"},), repeat=0)


def test_a_verdict_is_found_by_what_was_asked(tmp_path: Path) -> None:
    store, verdict = VerdictStore(tmp_path / "v"), Verdict(grade=3, text="three", model="m")
    assert store.get({"model": "m"}, ASK) is None
    store.put({"model": "m"}, ASK, verdict)
    assert VerdictStore(tmp_path / "v").get({"model": "m"}, ASK) == verdict
    assert store.get({"model": "n"}, ASK) is None
    assert store.get({"model": "m"}, ASK.model_copy(update={"repeat": 1})) is None


def test_a_damaged_verdict_is_named(tmp_path: Path) -> None:
    store = VerdictStore(tmp_path)
    store.put({}, ASK, Verdict(grade=3))
    path = next(tmp_path.rglob("*.json"))
    path.write_text(path.read_text()[:40])
    with pytest.raises(CheckError, match=f"{path.name}: damaged; delete it"):
        store.get({}, ASK)


def test_a_verdict_is_written_whole_while_others_read_and_write(tmp_path: Path) -> None:
    verdicts = [Verdict(grade=n, text=str(n) * 50_000) for n in (1, 2)]

    def write(verdict: Verdict) -> None:
        for _ in range(30):
            VerdictStore(tmp_path).put({}, ASK, verdict)
            assert VerdictStore(tmp_path).get({}, ASK) in verdicts

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, verdicts))
    assert not list(tmp_path.rglob("*.tmp"))


# ---------------------------------------------------------------- what is computed from them


class Scripted:
    """A judge that says what a function says."""

    local = False
    identity = {"kind": "scripted"}  # noqa: RUF012
    prompts = JudgePrompts.load(None)

    def __init__(self, says: Callable[[Ask], Any], repeats: int = 1) -> None:
        self.says, self.repeats = says, repeats

    def verdicts(self, asks: Sequence[Ask], store: VerdictStore) -> list[Verdict]:
        said = [(self.says(ask)) for ask in asks]
        return [s if isinstance(s, Verdict) else Verdict(grade=s, model="m") for s in said]


def options(tmp_path: Path) -> dict[str, Any]:
    return {"store": VerdictStore(tmp_path), "benchmark": "b", "generation": {}}


def test_an_item_is_the_mean_of_its_turns_medians(tmp_path: Path) -> None:
    grades = {"my Write": (1, 9, 4), "my Shorter": (8, 2, 7)}

    def says(ask: Ask) -> float:
        content = ask.messages[1]["content"]
        turn = "my Shorter" if "my Shorter" in content else "my Write"
        return grades[turn][ask.repeat]

    found = grade(QUESTIONS[:1], ANSWERS[:1], Scripted(says, 3), **options(tmp_path))
    assert found.items[0].value == (4 + 7) / 2
    assert found.items[0].repeats == (4.5, 5.5, 5.5)


def evaluation(*items: tuple[float, ...]) -> Evaluation:
    made = [Item(id=str(i), value=sorted(r)[len(r) // 2], repeats=r) for i, r in enumerate(items)]
    return Evaluation(benchmark="b", unit="u", better="higher", chance=None, items=tuple(made))


def test_questions_and_repeats_have_intervals_of_their_own() -> None:
    steady = evaluation(*[(float(g),) * 3 for g in range(1, 11)])
    low, high = interval(steady, 0.95)
    assert judged_again(steady) == (5.5, 5.5) and low < 5 < 6 < high
    moody = evaluation(*[(3.0, 5.0, 7.0)] * 10)
    again = judged_again(moody)
    assert interval(moody, 0.95) == (5, 5) and again is not None and again[0] < 5 < again[1]
    assert judged_again(moody) == again
    assert judged_again(evaluation((3.0,), (4.0,))) is None


def test_a_win_counts_if_both_orders_agree(tmp_path: Path) -> None:
    def says(ask: Ask) -> float:
        content = ask.messages[1]["content"]
        mine_first = content.index("my ") < content.index("\nno\n")
        if "quark" in content:
            return 1.0  # whichever stands first
        if "1+1" in content:
            return 0.5
        return 1.0 if mine_first else 0.0

    found = compare(QUESTIONS, ANSWERS, OTHERS, Scripted(says), **options(tmp_path))
    assert [item.value for item in found.items] == [1.0, 1.0, 0.5, 0.5]
    assert found.counts["orders_disagree"] == 2 and found.chance == 0.5
    assert [found.counts[n] for n in ("wins", "ties", "losses")] == [2, 2, 0]
    swapped = compare(
        QUESTIONS, OTHERS, ANSWERS, Scripted(lambda a: 1 - says(a)), **options(tmp_path)
    )
    assert swapped.counts["judged"] == 4


def test_a_comparison_leaves_out_what_was_not_judged(tmp_path: Path) -> None:
    def says(ask: Ask) -> Any:
        if "quark" in ask.messages[1]["content"]:
            return Verdict(grade=None, why_not="refused", model="m")
        return 1.0

    found = compare(QUESTIONS, ANSWERS, OTHERS, Scripted(says), **options(tmp_path))
    assert found.counts["refused"] == 1 and found.counts["judged"] == 3
    assert all(item.value == 0.5 for item in found.items)


# ---------------------------------------------------------------- a model of one's own


def local(seed: int = 0, context: int = 400) -> LocalJudge:
    model = tiny.model(seed, vocab_size=259, max_position_embeddings=context)
    return LocalJudge(model, spoken.tokenizer(), name="tiny", files=f"digest of {seed}")


def test_a_local_judge_expects_what_its_likelihoods_say(tmp_path: Path) -> None:
    judge = local()
    messages = judge.prompts.messages(QUESTIONS[1], ANSWERS[1], 1)
    verdict = judge.verdicts(
        [Ask(reading="grade", messages=messages, repeat=0)], VerdictStore(tmp_path)
    )[0]
    likelihoods = []
    for number in range(1, 11):
        prompt = messages[-1]["content"]
        assert prompt.endswith("Rating:")
        ids = spoken.tokenizer()(f"{prompt} {number}\n")["input_ids"]
        start = len(spoken.tokenizer()(prompt)["input_ids"])
        with torch.no_grad():
            log_p = judge._model.eval()(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        likelihoods.append(sum(log_p[i - 1, ids[i]].item() for i in range(start, len(ids))))
    weights = [math.exp(value) for value in likelihoods]
    expected = sum(w * n for n, w in enumerate(weights, 1)) / sum(weights)
    assert verdict.grade == pytest.approx(expected, abs=1e-4)
    assert verdict.model == "tiny" and verdict.text.startswith("1 0.")


def test_a_local_judge_is_marked_and_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = local(context=700)
    judge._model.train()
    found = grade(QUESTIONS, ANSWERS, judge, **options(tmp_path))
    assert judge._model.training
    assert found.comparable["judge"]["local"] is True
    assert found.comparable["prompts"]["wording"] == "short"
    assert all(len(item.repeats) == 1 and 1 <= item.value <= 10 for item in found.items)
    monkeypatch.setattr(LocalJudge, "_verdict", lambda *_: pytest.fail("asked again"))
    assert grade(QUESTIONS, ANSWERS, judge, **options(tmp_path)) == found
    monkeypatch.undo()
    assert grade(QUESTIONS, ANSWERS, local(1, 700), **options(tmp_path)).items != found.items


def test_what_does_not_fit_a_local_judge_is_not_judged(tmp_path: Path) -> None:
    long = [ANSWERS[0], ANSWERS[1].model_copy(update={"turns": ("x" * 400,)})]
    found = grade(QUESTIONS[:2], long, local(context=450), **options(tmp_path))
    assert found.counts["too_long"] == 1 and [item.id for item in found.items] == ["81"]
    with pytest.raises(CheckError, match="4 too_long"):
        grade(QUESTIONS, ANSWERS, local(context=20), **options(tmp_path / "shorter"))


def test_a_local_judge_compares_too(tmp_path: Path) -> None:
    """By letters: an expectation over them would never be the same both ways round."""
    found = compare(QUESTIONS, ANSWERS, OTHERS, local(context=900), **options(tmp_path))
    assert found.counts["judged"] == 4
    files = [json.loads(path.read_bytes()) for path in tmp_path.rglob("*.json")]
    assert {file["verdict"]["grade"] for file in files} <= {0.0, 0.5, 1.0} and len(files) == 14


@pytest.mark.real_data
def test_a_trained_model_judges_real_questions(real_data: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = real_data / "models" / "stories3M"
    judge = LocalJudge(
        AutoModelForCausalLM.from_pretrained(folder, local_files_only=True),
        AutoTokenizer.from_pretrained(folder, local_files_only=True),
        name="stories3M",
        files="its digest",
    )
    questions = load_questions(real_data / "fastchat" / "vicuna_bench" / "question.jsonl")[:4]
    answers = [Answer(question_id=q.id, turns=("Once upon a time.",)) for q in questions]
    found = grade(questions, answers, judge, **options(tmp_path))
    assert found.counts["judged"] == 4 and len({item.value for item in found.items}) == 4


def test_a_question_of_one_turn_has_no_second() -> None:
    question = Question(id=1, category="generic", turns=("Hi",))
    with pytest.raises(AssertionError):
        JudgePrompts.load(None).messages(question, Answer(question_id=1, turns=("a",)), 3)
