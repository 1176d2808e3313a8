"""Single-answer grading: a judge grades every turn of every answer, `repeats` times."""

import math
from collections.abc import Mapping, Sequence

from ila_core.compare.results import Evaluation
from ila_core.inference.generate import Answer
from ila_core.inference.questions import Question
from ila_core.judge.ask import Judge, VerdictStore
from ila_core.judge.items import Showing, Sight, asks_of, check_answers, judged
from ila_core.judge.prompts import JudgePrompts


def grade(
    questions: Sequence[Question],
    answers: Sequence[Answer],
    judge: Judge,
    store: VerdictStore,
    *,
    benchmark: str,
    generation: Mapping[str, object] | None,
) -> Evaluation:
    """Grade each answer: an item is the mean over its turns of the median over repeats.

    Args:
        questions: what was asked.
        answers: one per question, in the same order.
        judge: who grades.
        store: verdicts that are there, and where new ones go.
        benchmark: the evaluation's name.
        generation: how the answers were made, which two evaluations must have in common; `None`
            where nobody can say.

    Raises:
        UserError: answers to other questions, a reference answer that is needed and missing, or
            what a judge says about wrong input.
        CheckError: no item could be judged, or by more than one model.
    """
    check_answers(questions, answers)
    showing = single(questions, answers, judge.prompts)
    verdicts = judge.verdicts(asks_of(questions, showing, judge), store)
    found = judged(questions, showing, judge, verdicts, generation)
    several = sum(v.several for v in verdicts if v.grade is not None)
    return Evaluation(
        benchmark=benchmark,
        unit="grade (1-10)",
        better="higher",
        chance=None,
        items=found.items,
        comparable=found.comparable,
        counts=found.counts | {"several_ratings": several},
    )


def single(
    questions: Sequence[Question], answers: Sequence[Answer], prompts: JudgePrompts
) -> Showing:
    """Show each answer by itself."""
    return Showing(
        "grade",
        lambda place, turn: (prompts.messages(questions[place], answers[place], turn),),
        _grade,
    )


def _grade(sight: Sight) -> float:
    (verdict,) = sight
    assert verdict.grade is not None and math.isfinite(verdict.grade)
    return verdict.grade
