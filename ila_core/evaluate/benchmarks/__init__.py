"""The benchmarks: one file for each, one line for each in `BENCHMARKS`."""

from typing import Protocol

from ila_core.compare.results import Evaluation
from ila_core.config import EvaluateConfig
from ila_core.evaluate.benchmarks.general_text import GeneralText
from ila_core.evaluate.benchmarks.held_out_loss import HeldOutLoss
from ila_core.evaluate.benchmarks.hellaswag import HellaSwag
from ila_core.evaluate.benchmarks.instructions import Instructions
from ila_core.evaluate.benchmarks.mmlu import Mmlu
from ila_core.evaluate.benchmarks.mt_bench import MtBench
from ila_core.evaluate.benchmarks.vicuna import Vicuna
from ila_core.evaluate.subject import Need, Resolved, Subject
from ila_core.inference.questions import Question
from ila_core.resolve import Lock, Unknown


class Benchmark(Protocol):
    name: str
    version: int
    """Increased when the same model would get another number."""
    needs: tuple[Need, ...]

    def identity(self, evaluate: EvaluateConfig, lock: Lock) -> Resolved | Unknown:
        """Return what changes the result, from the profile and the files that it names.

        Raises:
            UserError: when the profile lacks a setting of this benchmark, or a file is missing.
        """

    def run(self, subject: Subject, evaluate: EvaluateConfig, resolved: Resolved) -> Evaluation:
        """Measure the model.

        Args:
            resolved: what `identity` returned.
        """


class AnswerBenchmark(Benchmark, Protocol):
    """A benchmark that reads generated answers instead of the model; `needs` has `answers`."""

    def asked(self, evaluate: EvaluateConfig, lock: Lock) -> str | Unknown:
        """Return the identity of the questions."""

    def questions(self, evaluate: EvaluateConfig) -> tuple[Question, ...]:
        """Return all questions, in order.

        Raises:
            UserError: when the profile names no file, or one without questions.
        """


BENCHMARKS: dict[str, Benchmark] = {
    "held_out_loss": HeldOutLoss(),
    "general_text": GeneralText(),
    "instructions": Instructions(),
    "mmlu": Mmlu(),
    "hellaswag": HellaSwag(),
    "vicuna": Vicuna(),
    "mt_bench": MtBench(),
}
