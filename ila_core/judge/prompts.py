"""A judge is asked by FastChat's prompts from the user's file, or in our own wording."""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ila_core.data.rows import read_rows
from ila_core.errors import UserError, listed
from ila_core.inference.generate import Answer
from ila_core.inference.questions import Question
from ila_core.keys import digest_of

NEED_REFERENCE = ("math", "reasoning", "coding")
"""FastChat's `NEED_REF_CATS`."""

OWN, SHORT = (Path(__file__).with_name(f"{name}_prompts.jsonl") for name in ("own", "short"))
"""Our own prompts, in the format of FastChat's file. `OWN` asks a model that can explain itself;
`SHORT` asks a small one to continue with a number or a letter. A grade under either is not a grade
under FastChat's prompts."""

FIELDS = {
    "single-v1": ("question", "answer"),
    "single-math-v1": ("question", "ref_answer_1", "answer"),
    "single-v1-multi-turn": ("question_1", "answer_1", "question_2", "answer_2"),
    "single-math-v1-multi-turn": (
        *("question_1", "ref_answer_1", "question_2", "ref_answer_2"),
        *("answer_1", "answer_2"),
    ),
    "pair-v2": ("question", "answer_a", "answer_b"),
    "pair-math-v1": ("question", "ref_answer_1", "answer_a", "answer_b"),
    "pair-v2-multi-turn": (
        *("question_1", "question_2"),
        *("answer_a_1", "answer_b_1", "answer_a_2", "answer_b_2"),
    ),
    "pair-math-v1-multi-turn": (
        *("question_1", "ref_answer_1", "question_2", "ref_answer_2"),
        *("answer_a_1", "answer_b_1", "answer_a_2", "answer_b_2"),
    ),
}
"""The name of every prompt that is asked, and the fields that it shows."""

Messages = tuple[dict[str, str], ...]
"""Messages of the chat protocol: `role` and `content`."""


@dataclass(frozen=True)
class JudgePrompts:
    """Makes the prompts: one shows the first turn, another one both turns."""

    wording: Literal["fastchat", "own", "short"]
    """Whose words these are."""
    templates: dict[str, tuple[str, str]]
    """System prompt and prompt, by FastChat's names."""

    @classmethod
    def load(cls, path: Path | None) -> JudgePrompts:
        """Read FastChat's `judge_prompts.jsonl`, or our own wording without a path.

        Raises:
            UserError: a prompt that is missing, or that does not show what has to be judged.
        """
        return cls("own", _read(OWN)) if path is None else cls("fastchat", _read(path))

    @classmethod
    def short(cls) -> JudgePrompts:
        """Read our own wording for a small model that continues with the grade."""
        return cls("short", _read(SHORT))

    @property
    def digest(self) -> str:
        return digest_of(self.templates)

    def messages(self, question: Question, answer: Answer, turn: int) -> Messages:
        """Make the prompt about one turn of an answer.

        Args:
            turn: 1 or 2, as FastChat counts.

        Raises:
            UserError: the category needs a reference answer, and the question has none.
        """
        base, shown = self._question("single", "v1", question, turn)
        if turn == 1:
            return self._filled(base, shown | {"answer": answer.turns[0]})
        return self._filled(base, shown | _numbered("answer", answer))

    def pair_messages(self, question: Question, a: Answer, b: Answer, turn: int) -> Messages:
        """Make the prompt about two answers, `a` shown first."""
        base, shown = self._question("pair", "v2", question, turn)
        if turn == 1:
            return self._filled(base, shown | {"answer_a": a.turns[0], "answer_b": b.turns[0]})
        return self._filled(base, shown | _numbered("answer_a", a) | _numbered("answer_b", b))

    def _question(
        self, kind: str, version: str, question: Question, turn: int
    ) -> tuple[str, dict[str, str]]:
        """Return the prompt's name, and what it shows of the question."""
        assert turn in (1, 2), f"FastChat judges turns 1 and 2, not {turn}"
        shown = {"question": question.turns[0]}
        if turn == 2:
            shown = {"question_1": question.turns[0], "question_2": question.turns[1]}
        name = f"{kind}-{version}"
        if question.category in NEED_REFERENCE:
            if question.reference is None:
                raise UserError(
                    f"question {question.id} ({question.category}) has no reference answer, "
                    f"without which {', '.join(NEED_REFERENCE)} are not judged; give the question "
                    "set's reference_answer/gpt-4.jsonl"
                )
            name = f"{kind}-math-v1"
            shown |= {f"ref_answer_{i + 1}": question.reference[i] for i in range(turn)}
        return name + ("-multi-turn" if turn == 2 else ""), shown

    def _filled(self, name: str, shown: dict[str, str]) -> Messages:
        system, prompt = self.templates[name]
        return (
            {"role": "system", "content": system},
            {"role": "user", "content": prompt.format(**shown)},
        )


def _numbered(name: str, answer: Answer) -> dict[str, str]:
    return {f"{name}_{i + 1}": answer.turns[i] for i in range(2)}


def _read(path: Path) -> dict[str, tuple[str, str]]:
    """Read and check the templates of a file in FastChat's format."""
    found: dict[str, tuple[str, str]] = {}
    for row in read_rows(path):
        name = row.text("name")
        if name not in FIELDS:
            continue  # the file may hold prompts of FastChat's other modes
        if name in found:
            raise row.wrong("name", f"{name!r} is there twice")
        prompt = row.text("prompt_template")
        try:
            shown = {field for _, field, _, _ in string.Formatter().parse(prompt) if field}
        except ValueError as error:
            raise row.wrong("prompt_template", f"not a template ({error})") from error
        if shown != set(FIELDS[name]):
            raise row.wrong(
                "prompt_template",
                f"shows {listed(sorted(shown)) or 'nothing'}; {name!r} has to show "
                f"{', '.join(FIELDS[name])}",
            )
        found[name] = row.text("system_prompt"), prompt
    missing = [name for name in FIELDS if name not in found]
    if missing:
        raise UserError(
            f"{path}: no prompt named {', '.join(missing)}; give FastChat's "
            "judge_prompts.jsonl, or no path for our own wording"
        )
    return found
