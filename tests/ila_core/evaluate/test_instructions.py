"""Checks of answers: each passes what obeys and fails what does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ila_core.config import EvaluateConfig, RuntimeConfig
from ila_core.evaluate.benchmarks.instructions import TOPICS, Instructions
from ila_core.evaluate.instruction_checks import CHECKS, repeats_itself, sentences, words
from ila_core.evaluate.subject import Subject
from ila_core.inference.generate import Answer

OBEYED = {
    "Answer with one word.": ("Rex.", "Rex the dog"),
    "Answer with a list of exactly three lines, each beginning with '- '.": (
        "- a\n- b\n\n- c\n",
        "- a\n- b",
    ),
    "Write in capital letters only.": ("THE SEA, 3 MILES.", "THE sea"),
    "Write in small letters only, without any capital.": ("the sea.", "The sea."),
    'Answer with a JSON object that has the key "answer", and nothing else.': (
        '{"answer": "x"}',
        'Sure: {"answer": "x"}',
    ),
    "End your answer with the word done.": ("It is cold. Done and done!", "I have done it"),
    "Put your whole answer in double quotation marks.": (' "Rex" ', '"Rex" is good'),
    "Use at most ten words.": ("one two three four five six seven eight nine ten", "a " * 11),
    "Use at least forty words.": ("word " * 40, "word " * 39),
    "Answer in exactly one sentence.": ("It is cold, isn't it?", "It is. It was."),
    "Answer in exactly three sentences.": ("A! B? C", "A. B."),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.instruction)
def test_every_check_passes_what_obeys_and_nothing_else(check):
    obeys, does_not = OBEYED[check.instruction]
    assert check.passes(obeys)
    assert not check.passes(does_not)
    assert not check.passes("")


@given(st.text())
def test_no_answer_breaks_a_check(text):
    for check in CHECKS:
        assert check.passes(text) in (True, False)
    assert sentences(text) >= 0 and len(words(text)) >= 0


def test_going_round_in_circles():
    assert repeats_itself("he ran and he " * 4)
    assert not repeats_itself("he ran and he " * 2 + "slept")
    assert not repeats_itself("")


def run(answers):
    runtime = RuntimeConfig(home="/none", tracking_uri="")
    subject = Subject(None, None, "", runtime, lambda _: None, answers=answers)
    evaluate = EvaluateConfig(
        benchmarks=("instructions",), against="all", resamples=100, confidence=0.95
    )
    return Instructions().run(subject, evaluate, {"limit": None})


def test_an_item_is_the_mean_of_an_answers_two_checks():
    questions = Instructions().questions(None)
    assert len(questions) == len(TOPICS) * len(CHECKS) == len({q.turns for q in questions})
    answers = [
        Answer(question_id=q.id, turns=("Rex",), finished=(q.id != 1,), tokens=(2,), cut=(0,))
        for q in questions
    ]
    found = run(answers)
    assert len(found.items) == len(questions)
    assert [i.value for i in found.items[:3]] == [1, 0, 0.5], "one word; a list, and cut off"
    assert found.counts == {"obeyed": 3 * len(TOPICS), "ended well": len(questions) - 1}
    assert set(found.groups) == {"format", "length"}
    assert len(run(answers[:4]).items) == 4
