"""What a model is measured by: one file per benchmark, one line in `BENCHMARKS`."""

from typing import Any, Protocol

from ila_core.compare.results import Evaluation
from ila_core.config import EvaluateConfig
from ila_core.evaluate.benchmarks.general_text import GeneralText
from ila_core.evaluate.benchmarks.held_out_loss import HeldOutLoss
from ila_core.evaluate.benchmarks.hellaswag import HellaSwag
from ila_core.evaluate.benchmarks.instructions import Instructions
from ila_core.evaluate.benchmarks.mmlu import Mmlu
from ila_core.evaluate.benchmarks.mt_bench import MtBench
from ila_core.evaluate.benchmarks.vicuna import Vicuna
from ila_core.evaluate.subject import Need, Subject
from ila_core.inference.questions import Question
from ila_core.resolve import Lock, Unknown


class Benchmark(Protocol):
    name: str
    version: int
    """Raised when the same model would get another number."""
    needs: tuple[Need, ...]

    def identity(self, evaluate: EvaluateConfig, lock: Lock) -> dict[str, Any] | Unknown:
        """What of the profile, and of the files that it names, changes the result.

        Raises:
            UserError: the profile says too little for this benchmark, or a file is not there.
        """

    def run(
        self, subject: Subject, evaluate: EvaluateConfig, resolved: dict[str, Any]
    ) -> Evaluation:
        """Measure the model.

        Args:
            resolved: what `identity` gave.
        """


class AnswerBenchmark(Benchmark, Protocol):
    """One that looks at answers, and not at the model that gave them; it needs `answers`."""

    def asked(self, evaluate: EvaluateConfig, lock: Lock) -> str | Unknown:
        """Identity of the questions."""

    def questions(self, evaluate: EvaluateConfig) -> tuple[Question, ...]:
        """All of them, in order.

        Raises:
            UserError: the profile names no file, or one that holds no questions.
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
