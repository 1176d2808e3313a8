"""Reading and writing answers in FastChat's schema, for exchange with its tools."""

import json
from collections.abc import Sequence
from pathlib import Path

from ila_core.errors import UserError
from ila_core.inference.generate import Answer
from ila_core.inference.questions import Question, named, read_turns
from ila_core.keys import digest_of

ID_LENGTH = 22
"""Length of FastChat's answer ids (a short UUID)."""


def write_fastchat(answers: Sequence[Answer], model_id: str, path: Path) -> None:
    """Write one line per answer.

    `answer_id` is a hash of model, question and text, and `tstamp` is 0, so that the same answers
    give the same bytes. FastChat reads neither.
    """
    lines = []
    for answer in answers:
        identity = digest_of([model_id, answer.question_id, answer.turns])
        row = {
            "question_id": answer.question_id,
            "answer_id": identity[:ID_LENGTH],
            "model_id": model_id,
            "choices": [{"index": 0, "turns": list(answer.turns)}],
            "tstamp": 0.0,
        }
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")


def read_fastchat(path: Path, questions: Sequence[Question]) -> list[Answer]:
    """Read the answers to `questions`, in the order of `questions`.

    The schema has no token counts and no reason for an answer's end, so these fields are empty.

    Raises:
        UserError: when a row is not an answer, or the rows do not answer exactly `questions`.
    """
    found = read_turns(path)
    asked = {question.id: question for question in questions}
    for problem, ids in (
        ("answers questions that are not in the question set", sorted(found.keys() - asked)),
        ("has no answer to the questions", sorted(asked.keys() - found)),
    ):
        if ids:
            raise UserError(
                f"{path}: {problem} ({named(ids)}); give the answers to this question set"
            )
    answers = []
    for question in questions:
        row, turns = found[question.id]
        if len(turns) != len(question.turns):
            raise row.wrong(
                "choices",
                f"{len(turns)} turns; question {question.id} has {len(question.turns)}",
            )
        answers.append(Answer(question_id=question.id, turns=turns))
    return answers
