"""MMLU, 5-shot (Tables 1 and 3 to 11): `acc` weighted by subject size, as in lm-eval."""

from pathlib import Path

from ila_core.compare.results import Evaluation
from ila_core.config import EvaluateConfig
from ila_core.evaluate import lm_eval_tasks as tasks
from ila_core.evaluate.multiple_choice import evaluate_choices, question_identity
from ila_core.evaluate.subject import Need, Resolved, Subject
from ila_core.resolve import Lock, Unknown


class Mmlu:
    name = "mmlu"
    version = 2
    needs: tuple[Need, ...] = ()

    def identity(self, evaluate: EvaluateConfig, lock: Lock) -> Resolved | Unknown:
        return question_identity(
            evaluate.mmlu, evaluate.limit, lock, hub="cais/mmlu", files=("dev/*.csv", "test/*.csv")
        )

    def run(self, subject: Subject, evaluate: EvaluateConfig, resolved: Resolved) -> Evaluation:
        settings = evaluate.mmlu
        rows = tasks.read_mmlu(Path(settings.path), settings.shots) if settings.path else None
        folder = subject.task_folder(self.name, resolved)
        tasks.write_mmlu(folder, settings.shots, rows, resolved["data"].get("revision"))
        return evaluate_choices(
            subject, self.name, folder, tasks.MMLU, chance=1 / 4, resolved=resolved
        )
