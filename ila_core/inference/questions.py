"""Questions of one turn or several, with reference answers for some categories.

The files are FastChat's: `question_id`, `category`, `turns`. Other fields of a row, such as
MT-Bench's short references, are ignored, as FastChat's judge ignores them.
"""

from collections.abc import Container, Sequence
from pathlib import Path

from ila_core.config import Frozen
from ila_core.data.rows import SourceRow, read_rows, shown
from ila_core.errors import UserError, listed
from ila_core.keys import digest_of

MOST_TURNS = 2
"""Most turns of a question that FastChat's judge prompts support."""

TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
"""Sampling temperature of each category: FastChat's `temperature_config`."""
OTHER_TEMPERATURE = 0.7
"""FastChat's temperature for other categories, which are most of Vicuna's."""


class Question(Frozen):
    id: int
    category: str
    turns: tuple[str, ...]
    """The user's message of each turn."""
    reference: tuple[str, ...] | None = None
    """The reference answer of each turn."""

    @property
    def temperature(self) -> float:
        """The temperature at which FastChat samples the answer."""
        return TEMPERATURES.get(self.category, OTHER_TEMPERATURE)


def load_questions(path: Path, references: Path | None = None) -> tuple[Question, ...]:
    """Read FastChat's question file, in its order.

    Args:
        references: file of reference answers in the schema of answers
            (`reference_answer/gpt-4.jsonl`).

    Raises:
        UserError: when a row is not a question, an id occurs twice, or a reference belongs to no
            question or answers too few of its turns.
    """
    found: dict[int, Question] = {}
    for row in read_rows(path):
        number = question_id(row, found)
        turns = texts(row, "turns", row.value("turns"))
        if not 1 <= len(turns) <= MOST_TURNS:
            raise row.wrong(
                "turns", f"given {len(turns)} of them; allowed are 1 to {MOST_TURNS} turns"
            )
        found[number] = Question(id=number, category=row.text("category"), turns=turns)
    if not found:
        raise UserError(f"{path}: no question in it; FastChat's question.jsonl is needed")
    if references is not None:
        for number, (row, answer) in read_turns(references).items():
            if number not in found:
                raise row.wrong(
                    "question_id",
                    f"{path} has no question {number}; give the references of that question set",
                )
            needed = len(found[number].turns)
            if len(answer) < needed:
                raise row.wrong(
                    "choices", f"answers {len(answer)} of the {needed} turns of question {number}"
                )
            found[number] = found[number].model_copy(update={"reference": answer[:needed]})
    return tuple(found.values())


def questions_digest(questions: Sequence[Question]) -> str:
    """Digest a question set: every question with its reference, in order."""
    return digest_of([question.model_dump() for question in questions])


def read_turns(path: Path) -> dict[int, tuple[SourceRow, tuple[str, ...]]]:
    """Read the first choice of every answer in FastChat's schema: question id to row and turns.

    Raises:
        UserError: when a row is not an answer, or a question has two.
    """
    found: dict[int, tuple[SourceRow, tuple[str, ...]]] = {}
    for row in read_rows(path):
        number = question_id(row, found)
        first = row.as_list("choices")[0]
        if not isinstance(first, dict) or "turns" not in first:
            raise row.wrong(
                "choices", f"its first item is {shown(first)}; allowed is an object with `turns`"
            )
        found[number] = row, texts(row, "choices[0].turns", first["turns"])
    return found


def question_id(row: SourceRow, seen: Container[int]) -> int:
    given = row.value("question_id")
    if isinstance(given, bool) or not isinstance(given, int):
        raise row.wrong("question_id", f"given {shown(given)}; allowed is a whole number")
    if given in seen:
        raise row.wrong("question_id", f"{given} is there twice; every id may be given once")
    return given


def texts(row: SourceRow, field: str, given: object) -> tuple[str, ...]:
    if not isinstance(given, list):
        raise row.wrong(field, f"given {shown(given)}; allowed is a list of texts")
    return tuple(row.as_text(f"{field}[{i}]", text) for i, text in enumerate(given))


def named(ids: Sequence[int]) -> str:
    """Shorten a list of question ids for an error message."""
    return listed([str(number) for number in ids])
