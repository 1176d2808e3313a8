"""HellaSwag, 0-shot (Tables 3 to 11): the paper reports `acc`, not `acc_norm`."""

from pathlib import Path

from ila_core.compare.results import Evaluation
from ila_core.config import EvaluateConfig
from ila_core.evaluate import lm_eval_tasks as tasks
from ila_core.evaluate.multiple_choice import evaluate_choices, question_identity
from ila_core.evaluate.subject import Need, Resolved, Subject
from ila_core.resolve import Lock, Unknown


class HellaSwag:
    name = "hellaswag"
    version = 2
    needs: tuple[Need, ...] = ()

    def identity(self, evaluate: EvaluateConfig, lock: Lock) -> Resolved | Unknown:
        return question_identity(
            evaluate.hellaswag, evaluate.limit, lock, hub="Rowan/hellaswag", files=()
        )

    def run(self, subject: Subject, evaluate: EvaluateConfig, resolved: Resolved) -> Evaluation:
        settings = evaluate.hellaswag
        rows = tasks.read_hellaswag(Path(settings.path)) if settings.path else None
        folder = subject.task_folder(self.name, resolved)
        tasks.write_hellaswag(folder, settings.shots, rows, resolved["data"].get("revision"))
        return evaluate_choices(
            subject, self.name, folder, tasks.HELLASWAG, chance=1 / 4, resolved=resolved
        )
