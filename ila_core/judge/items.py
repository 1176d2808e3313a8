"""Verdicts become the items of an evaluation: every turn is judged `repeats` times.

An item is judged if every turn has a verdict in some repeat; only repeats that judged all turns
count. What is not judged is counted by its reason and has no part in any mean.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from ila_core.compare.results import Item
from ila_core.errors import CheckError, UserError
from ila_core.inference.generate import Answer
from ila_core.inference.questions import Question, named, questions_digest
from ila_core.judge.ask import Ask, Judge, ReadingName
from ila_core.judge.prompts import Messages
from ila_core.judge.verdict import Verdict, WhyNot

WHY_NOT: tuple[WhyNot, ...] = ("too_long", "refused", "unparsable")
Sight = tuple[Verdict, ...]
"""The verdicts of one turn in one repeat, one for each prompt."""


@dataclass(frozen=True)
class Showing:
    """Says what a judge is shown of a turn, and what its verdicts are worth."""

    reading: ReadingName
    prompts: Callable[[int, int], tuple[Messages, ...]]
    """Return the prompts of a question's number and turn (from 1), asked in every repeat."""
    worth: Callable[[Sight], float]


@dataclass(frozen=True)
class Judged:
    items: tuple[Item, ...]
    """The mean over a question's turns of the median over repeats."""
    counts: dict[str, int]
    """Items judged and not judged, by reason; and repeats that failed where others did not."""
    sights: tuple[Sight, ...]
    """The verdicts of the repeats that count."""
    comparable: dict[str, Any]
    """What two evaluations must share to be compared: judge, prompts, questions, generation."""


def asks_of(questions: Sequence[Question], showing: Showing, judge: Judge) -> list[Ask]:
    """List what `judged` takes verdicts on, in its order: by question, turn, repeat and prompt.

    Raises:
        UserError: a reference answer that is needed and missing.
    """
    return [
        Ask(reading=showing.reading, messages=messages, repeat=repeat)
        for place, question in enumerate(questions)
        for turn in range(1, len(question.turns) + 1)
        for repeat in range(judge.repeats)
        for messages in showing.prompts(place, turn)
    ]


def judged(
    questions: Sequence[Question],
    showing: Showing,
    judge: Judge,
    verdicts: Sequence[Verdict],
    generation: Mapping[str, object] | None,
) -> Judged:
    """Make items of `verdicts`, one for each of `asks_of`.

    Raises:
        CheckError: no item could be judged, or by more than one model.
    """
    model, fingerprints = _judged_by(verdicts)
    items, sights, counts = [], [], Counter({"judged": 0} | dict.fromkeys(WHY_NOT, 0))
    rest = iter(verdicts)
    prompts = len(verdicts) // (judge.repeats * sum(len(question.turns) for question in questions))
    for question in questions:
        turns = [
            [tuple(next(rest) for _ in range(prompts)) for _ in range(judge.repeats)]
            for _ in question.turns
        ]
        whole = [
            r for r in zip(*turns, strict=True) if all(v.why_not is None for s in r for v in s)
        ]
        if not whole:
            counts[_reason(v for turn in turns for sight in turn for v in sight)] += 1
            continue
        counts["judged"] += 1
        counts["failed_repeats"] += judge.repeats - len(whole)
        sights += [sight for repeat in whole for sight in repeat]
        worth = [[showing.worth(sight) for sight in repeat] for repeat in whole]
        items.append(
            Item(
                id=str(question.id),
                group=question.category,
                value=fmean(median(turn) for turn in zip(*worth, strict=True)),
                repeats=tuple(fmean(repeat) for repeat in worth),
            )
        )
    if not items:
        said = ", ".join(f"{counts[why]} {why}" for why in WHY_NOT)
        raise CheckError(
            f"the judge graded none of the answers ({said}); read its replies in the verdicts' "
            "folder, and take a judge that can read and grade them"
        )
    comparable = {
        "judge": {**judge.identity, "local": judge.local, "replied": model},
        "fingerprints": list(fingerprints),
        "prompts": {"wording": judge.prompts.wording, "digest": judge.prompts.digest},
        "questions": questions_digest(questions),
        "generation": None if generation is None else dict(generation),
    }
    return Judged(tuple(items), dict(counts), tuple(sights), comparable)


def check_answers(questions: Sequence[Question], answers: Sequence[Answer]) -> None:
    """Check that each question has its answer, with as many turns.

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


def _judged_by(verdicts: Sequence[Verdict]) -> tuple[str, tuple[str, ...]]:
    """Return the one model that the replies name, and the fingerprints they give."""
    models = sorted({verdict.model for verdict in verdicts if verdict.model})
    if len(models) > 1:
        raise CheckError(
            f"the verdicts are of several judges ({', '.join(models)}): the name that was asked "
            "for has come to mean another model; ask for one of them by its full name"
        )
    fingerprints = {v.fingerprint for v in verdicts if v.fingerprint is not None}
    return (models[0] if models else ""), tuple(sorted(fingerprints))


def _reason(verdicts: Iterable[Verdict]) -> WhyNot:
    """Say why an item is not judged; first is what no further attempt could have changed."""
    found = {verdict.why_not for verdict in verdicts}
    return next(why for why in WHY_NOT if why in found)
