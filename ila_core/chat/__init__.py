"""Questions that a model answers in conversation, and its answers (Vicuna, MT-Bench)."""

from __future__ import annotations

from ila_core.chat.answering import Answer, GenerationSettings, answer_all
from ila_core.chat.fastchat import read_fastchat, write_fastchat
from ila_core.chat.questions import TEMPERATURES, Question, load_questions, questions_digest

__all__ = [
    "TEMPERATURES",
    "Answer",
    "GenerationSettings",
    "Question",
    "answer_all",
    "load_questions",
    "questions_digest",
    "read_fastchat",
    "write_fastchat",
]
