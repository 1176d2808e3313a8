"""A judge at a server of the tests, and what it is given to grade."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ila_core.compare.results import Evaluation
from ila_core.config import JudgeLimits, OpenAiJudgeSettings
from ila_core.inference.generate import Answer
from ila_core.judge.ask import Ask, VerdictStore
from ila_core.judge.grade import grade
from ila_core.judge.openai_judge import OpenAiJudge
from ila_core.judge.prompts import JudgePrompts
from ila_core.judge.verdict import Verdict
from tests.helpers.judge_server import JudgeServer, Script
from tests.helpers.spoken import QUESTIONS

ANSWERS = tuple(
    Answer(question_id=q.id, turns=tuple(f"my {t}" for t in q.turns)) for q in QUESTIONS
)
VERDICTS = 7
"""Turns of all questions."""
Serve = Callable[[Script], JudgeServer]


def judge_at(server: JudgeServer, **changed: Any) -> OpenAiJudge:
    """A judge at `server`, with `changed` in its settings and limits."""
    limits = {k: changed.pop(k) for k in tuple(changed) if k in JudgeLimits.model_fields}
    settings = {"model": "gpt-4", "repeats": 1} | changed
    return OpenAiJudge(
        OpenAiJudgeSettings.model_validate(settings),
        JudgePrompts.load(None),
        limits=JudgeLimits.model_validate({"timeout": 20.0} | limits),
        environment=server.environment,
    )


def graded(judge: Any, folder: Path, **changed: Any) -> Evaluation:
    given: dict[str, Any] = {"questions": QUESTIONS, "answers": ANSWERS} | changed
    return grade(
        given["questions"],
        given["answers"],
        judge,
        VerdictStore(folder),
        benchmark="mt_bench",
        generation={"temperature": "greedy"},
    )


def one(judge: OpenAiJudge, folder: Path) -> Verdict:
    """The verdict on a single answer."""
    messages = judge.prompts.messages(QUESTIONS[1], ANSWERS[1], 1)
    ask = Ask(reading="grade", messages=messages, repeat=0)
    return judge.verdicts([ask], VerdictStore(folder))[0]
