"""Multiple choice by log-likelihood: lm-eval's tasks, scored for one model after another.

A process builds the tasks of a question set and tokenizes its prompts once; all models with the
same tokenizer are scored on the same tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from ila_core.compare.results import Evaluation, Item
from ila_core.config import HellaSwagSettings, MmluSettings
from ila_core.evaluate.lm_eval_tasks import definitions, load_tasks, task_versions
from ila_core.evaluate.subject import Resolved, Subject
from ila_core.inference.likelihood import log_likelihoods
from ila_core.inference.likelihood_cache import Continuation
from ila_core.provenance import seeded
from ila_core.resolve import Lock, Unknown
from ila_core.train.merge import folded

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task
    from lm_eval.models.huggingface import HFLM
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Asked:
    """One question with its choices as tokens."""

    task: str
    doc_id: int
    continuations: tuple[Continuation, ...]
    cut: bool
    """Whether a prompt exceeded the model's context and was truncated on the left."""


@dataclass
class QuestionSet:
    """lm-eval's task objects by name, with their requests built."""

    tasks: dict[str, Task]
    _asked: dict[str, list[Asked]] = field(default_factory=dict)

    @classmethod
    @lru_cache(maxsize=8)
    def open(cls, folder: Path, name: str, limit: int | None) -> QuestionSet:
        """Build the tasks that `folder` defines under `name`, once in this process.

        Args:
            limit: most questions per task; `None` asks all.
        """
        # A bar for each subject, on a stream of its own; what is logged goes where it always does.
        # Both libraries draw from the global generators.
        with redirect_stderr(StringIO()), seeded(0):
            tasks = load_tasks(folder, name)
            for task in tasks.values():
                task.build_all_requests(limit=limit)
        return cls(tasks)

    @property
    def versions(self) -> list[str]:
        return task_versions(self.tasks.values())

    def ask(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        identity: str,
    ) -> list[Asked]:
        """Tokenize every question; `identity` identifies the tokenizer in this set's cache."""
        from lm_eval.models.huggingface import HFLM

        from ila_core.train.loss import eval_mode

        if identity not in self._asked:
            # It has only to tokenize, and warns of what it will not do with a model in hand.
            logging.getLogger("lm_eval.models.huggingface").setLevel(logging.ERROR)
            causal = getattr(model, "get_base_model", lambda: model)()
            with eval_mode(model):  # which is how HFLM leaves a model
                lm = HFLM(pretrained=causal, tokenizer=tokenizer, batch_size=1)
            self._asked[identity] = [
                _encoded(lm, name, doc_id, instances)
                for name, task in self.tasks.items()
                for doc_id, instances in _by_document(task).items()
            ]
        return self._asked[identity]


def question_identity(
    settings: MmluSettings | HellaSwagSettings,
    limit: int | None,
    lock: Lock,
    *,
    hub: str,
    files: Sequence[str],
) -> Resolved | Unknown:
    """Return what a result depends on besides the model: the rows, the shots and lm-eval.

    Args:
        lock: resolves the files' digests or the hub's commit.
        hub: the dataset's id on the hub.
        files: patterns of the files in a local folder; empty when the path is a file.
    """
    if settings.path is None:
        revision = lock.hub_dataset(hub, settings.revision)
        if isinstance(revision, Unknown):
            return revision
        data = {"hub": hub, "revision": revision}
    else:
        data = {"files": lock.files(settings.path, files)}
    definitions()
    return {
        "data": data,
        "shots": settings.shots,
        "limit": limit,
        "lm_eval": version("lm_eval"),
    }


def evaluate_choices(
    subject: Subject,
    benchmark: str,
    folder: Path,
    name: str,
    *,
    chance: float,
    resolved: Resolved,
) -> Evaluation:
    """Measure the accuracy (`acc`), and record the log-likelihood of every choice, in nats.

    Args:
        chance: accuracy of random guessing.
        resolved: settings that two results must share to be comparable.
    """
    questions = QuestionSet.open(folder, name, resolved["limit"])
    asked = questions.ask(subject.model, subject.tokenizer, subject.identity)
    flat = [c for question in asked for c in question.continuations]
    rows, done = len({c.inputs for c in flat}), 0

    def on_rows(count: int) -> None:
        nonlocal done
        done += count
        subject.on_progress(done / rows)

    with folded(subject.model):
        found = log_likelihoods(
            subject.model,
            flat,
            batch=subject.runtime.eval_batch,
            on_rows=on_rows,
            kept=subject.checkpoints,
        )
    scores = iter(found)
    items = []
    for question in asked:
        task = questions.tasks[question.task]
        answers = tuple(next(scores) for _ in question.continuations)
        metrics = task.process_results(
            task.eval_docs[question.doc_id], [(value, False) for value in answers]
        )
        group = question.task.removeprefix(name).removeprefix("_")
        number = f"{group or benchmark}/{question.doc_id}"
        items.append(
            Item(id=number, group=group, value=float(metrics["acc"]), log_likelihoods=answers)
        )
    return Evaluation(
        benchmark=benchmark,
        unit="accuracy",
        better="higher",
        chance=chance,
        items=tuple(items),
        comparable=resolved | {"task_versions": questions.versions},
        counts={"prompts cut": sum(question.cut for question in asked)},
    )


def _by_document(task: Task) -> dict[int, list[Instance]]:
    found: dict[int, list[Instance]] = {}
    for instance in task.instances:
        found.setdefault(instance.doc_id, []).append(instance)
    return found


def _encoded(lm: HFLM, name: str, doc_id: int, instances: list[Instance]) -> Asked:
    most, pairs = lm.max_length, []
    for instance in sorted(instances, key=lambda x: x.idx):
        context, continuation = instance.args
        pairs.append(lm._encode_pair(context, continuation))
    return Asked(
        task=name,
        doc_id=doc_id,
        continuations=tuple(Continuation.of(c, a, most, family=name) for c, a in pairs),
        cut=any(len(c) + len(a) > most + 1 for c, a in pairs),
    )
