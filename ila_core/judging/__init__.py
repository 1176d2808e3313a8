"""Judges of answers, and the grades they give (Vicuna, MT-Bench)."""

from __future__ import annotations

from ila_core.judging.grading import grade, require_same_judge
from ila_core.judging.local_judge import LocalJudge
from ila_core.judging.openai_judge import JudgeLimits, OpenAiJudge, OpenAiJudgeSettings
from ila_core.judging.pairwise import compare
from ila_core.judging.prompts import JudgePrompts
from ila_core.judging.spread import Spread, spread
from ila_core.judging.store import VerdictStore
from ila_core.judging.verdict import Verdict, parse_rating

__all__ = [
    "JudgeLimits",
    "JudgePrompts",
    "LocalJudge",
    "OpenAiJudge",
    "OpenAiJudgeSettings",
    "Spread",
    "Verdict",
    "VerdictStore",
    "compare",
    "grade",
    "parse_rating",
    "require_same_judge",
    "spread",
]
