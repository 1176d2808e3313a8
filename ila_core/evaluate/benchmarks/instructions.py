"""Instruction following, as far as rules can check it without a judge.

It follows IFEval's strict accuracy (Zhou et al. 2023, arXiv:2311.07911): the answer is checked as
it is. The prompts are our own and easy, so that small models differ on them. Besides its format or
length, each answer is checked for ending with an end token and for not repeating itself.
"""

from ila_core.compare.results import Evaluation, Item
from ila_core.config import EvaluateConfig
from ila_core.evaluate.instruction_checks import CHECKS, Check, repeats_itself
from ila_core.evaluate.subject import Need, Resolved, Subject
from ila_core.inference.generate import Answer
from ila_core.inference.questions import Question, questions_digest
from ila_core.resolve import Lock

TOPICS = (
    "What is a good name for a dog?",
    "Tell me about the sea.",
    "What do you like about winter?",
    "Why do birds sing?",
    "What should I eat today?",
)


class Instructions:
    name = "instructions"
    version = 2
    needs: tuple[Need, ...] = ("answers",)

    def asked(self, evaluate: EvaluateConfig, lock: Lock) -> str:
        return questions_digest(self.questions(evaluate))

    def questions(self, evaluate: EvaluateConfig) -> tuple[Question, ...]:
        return tuple(
            Question(id=number, category=check.kind, turns=(f"{topic} {check.instruction}",))
            for number, (topic, check) in enumerate(_pairs())
        )

    def identity(self, evaluate: EvaluateConfig, lock: Lock) -> Resolved:
        return {"limit": evaluate.limit}

    def run(self, subject: Subject, evaluate: EvaluateConfig, resolved: Resolved) -> Evaluation:
        checks = [check for _, check in _pairs()]
        answers = list(zip(subject.answers, checks, strict=False))  # fewer answers under a limit
        return Evaluation(
            benchmark=self.name,
            unit="share of checks passed",
            better="higher",
            chance=None,
            items=tuple(_item(number, *pair) for number, pair in enumerate(answers)),
            counts={
                "obeyed": sum(check.passes(answer.turns[0]) for answer, check in answers),
                "ended well": sum(map(_ended_well, subject.answers)),
            },
            comparable=resolved
            | {
                "questions": questions_digest(self.questions(evaluate)),
                "generation": evaluate.generation.model_dump(),
            },
        )


def _pairs() -> list[tuple[str, Check]]:
    """Return every topic with every check, topic by topic: a limit still covers all checks."""
    return [(topic, check) for topic in TOPICS for check in CHECKS]


def _item(number: int, answer: Answer, check: Check) -> Item:
    """Return one item with the mean of two checks, which are not independent of each other."""
    passed = check.passes(answer.turns[0]) + _ended_well(answer)
    return Item(id=str(number), group=check.kind, value=passed / 2)


def _ended_well(answer: Answer) -> bool:
    return answer.finished[0] and not repeats_itself(answer.turns[0])
