"""Single-answer grading: every answer's turns, `repeats` times each, as one evaluation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from ila_core.chat.answering import Answer
from ila_core.chat.questions import Question, named, questions_digest
from ila_core.errors import CheckError, UserError
from ila_core.evaluation.result import Evaluation, Item
from ila_core.judging.asking import Ask, Judge
from ila_core.judging.store import VerdictStore
from ila_core.judging.verdict import Verdict, WhyNot

WHY_NOT: tuple[WhyNot, ...] = ("too_long", "refused", "unparsable")


def grade(
    questions: Sequence[Question],
    answers: Sequence[Answer],
    judge: Judge,
    store: VerdictStore,
    *,
    benchmark: str,
    generation: Mapping[str, Any],
) -> Evaluation:
    """One item per question: the mean over its turns of the median over repeats.

    An item is judged if every turn has a grade in some repeat; only repeats that graded all turns
    count. What is not judged is counted by its reason and has no part in the mean.

    Args:
        questions: what was asked.
        answers: one per question, in the same order.
        judge: who grades.
        store: verdicts that are there, and where new ones go.
        benchmark: the evaluation's name.
        generation: how the answers were made, which two evaluations must have in common.

    Raises:
        UserError: answers to other questions, or what a judge says about wrong input.
        CheckError: no item could be judged, or by more than one model.
    """
    verdicts = judge.verdicts(asks_about(questions, answers, judge), store)
    model, fingerprints = judged_by(verdicts)
    items, counts = [], Counter({"judged": 0} | dict.fromkeys(WHY_NOT, 0))
    rest = iter(verdicts)
    for question in questions:
        turns = [[next(rest) for _ in range(judge.repeats)] for _ in question.turns]
        whole = [
            repeat for repeat in zip(*turns, strict=True) if all(v.why_not is None for v in repeat)
        ]
        counts["failed_repeats"] += judge.repeats - len(whole) if whole else 0
        if not whole:
            counts[reason(v for turn in turns for v in turn)] += 1
            continue
        counts["judged"] += 1
        grades = [[_grade(verdict) for verdict in repeat] for repeat in whole]
        items.append(
            Item(
                id=str(question.id),
                group=question.category,
                value=fmean(median(turn) for turn in zip(*grades, strict=True)),
                repeats=tuple(fmean(repeat) for repeat in grades),
            )
        )
    counts["several_ratings"] = sum(v.several for v in verdicts if v.grade is not None)
    require_some(items, counts)
    return Evaluation(
        benchmark=benchmark,
        unit="grade (1-10)",
        better="higher",
        chance=None,
        items=tuple(items),
        comparable=comparable(questions, judge, model, fingerprints, generation),
        counts=dict(counts),
    )


def asks_about(questions: Sequence[Question], answers: Sequence[Answer], judge: Judge) -> list[Ask]:
    """What `grade` asks the judge, in its order: by question, turn and repeat.

    Raises:
        UserError: answers to other questions, or a reference answer that is needed and missing.
    """
    check_answers(questions, answers)
    return [
        Ask(reading="grade", messages=judge.prompts.messages(question, answer, turn), repeat=repeat)
        for question, answer in zip(questions, answers, strict=True)
        for turn in range(1, len(question.turns) + 1)
        for repeat in range(judge.repeats)
    ]


def check_answers(questions: Sequence[Question], answers: Sequence[Answer]) -> None:
    """One answer per question, with as many turns.

    Raises:
        UserError: naming the questions.
    """
    if not questions:
        raise UserError("no question to judge; give a question set, or a larger limit")
    asked, given = [q.id for q in questions], [a.question_id for a in answers]
    if asked != given:
        other = sorted(set(asked) ^ set(given)) or asked
        raise UserError(
            f"the answers are not those to the questions, one each and in their order "
            f"({named(other)}); give the answers to this question set"
        )
    short = [
        a.question_id
        for q, a in zip(questions, answers, strict=True)
        if len(a.turns) != len(q.turns)
    ]
    if short:
        raise UserError(f"the answers to {named(short)} have other turns than the questions")


def judged_by(verdicts: Sequence[Verdict]) -> tuple[str, tuple[str, ...]]:
    """The one model by the replies' own word, and the fingerprints it gave.

    Raises:
        CheckError: several models.
    """
    models = sorted({verdict.model for verdict in verdicts if verdict.model})
    if len(models) > 1:
        raise CheckError(
            f"the verdicts are of several judges ({', '.join(models)}): the name that was asked "
            "for has come to mean another model; ask for one of them by its full name"
        )
    fingerprints = {v.fingerprint for v in verdicts if v.fingerprint is not None}
    return (models[0] if models else ""), tuple(sorted(fingerprints))


def comparable(
    questions: Sequence[Question],
    judge: Judge,
    model: str,
    fingerprints: Sequence[str],
    generation: Mapping[str, Any],
) -> dict[str, Any]:
    """What two evaluations must have in common: who judged what, by which prompts."""
    return {
        "judge": {**judge.identity, "local": judge.local, "replied": model},
        "fingerprints": list(fingerprints),
        "prompts": {"wording": judge.prompts.wording, "digest": judge.prompts.digest},
        "questions": questions_digest(questions),
        "generation": dict(generation),
    }


def reason(verdicts: Any) -> WhyNot:
    """Why an item is not judged: the reason that no further attempt could have changed first."""
    found = {verdict.why_not for verdict in verdicts}
    return next(why for why in WHY_NOT if why in found)


def require_some(items: Sequence[Item], counts: Mapping[str, int]) -> None:
    """
    Raises:
        CheckError: nothing could be judged.
    """
    if not items:
        said = ", ".join(f"{counts[why]} {why}" for why in WHY_NOT)
        raise CheckError(
            f"the judge graded none of the answers ({said}); read its replies in the verdicts' "
            "folder, and take a judge that can read and grade them"
        )


def _grade(verdict: Verdict) -> float:
    assert verdict.grade is not None and math.isfinite(verdict.grade)
    return verdict.grade
