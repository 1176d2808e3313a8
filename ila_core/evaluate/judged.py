"""Benchmarks in which a judge grades a model's answers to FastChat's questions."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from ila_core.compare.results import Evaluation
from ila_core.config import (
    EvaluateConfig,
    JudgeLimits,
    LocalJudgeSettings,
    OpenAiJudgeSettings,
    QuestionsSettings,
    RuntimeConfig,
)
from ila_core.config.load import load_model_config
from ila_core.errors import UserError
from ila_core.evaluate.subject import Need, Resolved, Subject
from ila_core.inference.generate import Answer, longest
from ila_core.inference.questions import Question, load_questions
from ila_core.judge.ask import Judge, VerdictStore
from ila_core.judge.budget import Budget, Forecast
from ila_core.judge.grade import grade, single
from ila_core.judge.items import asks_of
from ila_core.judge.local_judge import LocalJudge
from ila_core.judge.openai_judge import OpenAiJudge
from ila_core.judge.pairwise import compare, side_by_side
from ila_core.judge.prompts import JudgePrompts
from ila_core.keys import canonical
from ila_core.models.loading import load_base, load_tokenizer, resolve_device
from ila_core.resolve import Lock, Unknown

Pair = tuple[Sequence[Answer], Sequence[Answer]]
"""Two models' answers to the same questions."""

_DECISIVE = {"dtype", "lm_head"}
"""Fields of a local judge's model profile that change its grades, besides its files."""


class Judged:
    """A benchmark of questions with one turn or two, graded by a judge."""

    name: str
    """The benchmark's name, which is also the field of its settings in `evaluate`."""
    needs: tuple[Need, ...] = ("answers",)

    def asked(self, evaluate: EvaluateConfig, lock: Lock) -> str | Unknown:
        return lock.files(self._settings(evaluate).questions)

    def questions(self, evaluate: EvaluateConfig) -> tuple[Question, ...]:
        settings = self._settings(evaluate)
        references = None if settings.references is None else Path(settings.references)
        return load_questions(Path(settings.questions), references)

    def identity(self, evaluate: EvaluateConfig, lock: Lock) -> Resolved | Unknown:
        settings, judge = self._settings(evaluate), self._judge_settings(evaluate)
        found: Resolved = {
            "judge": judge.model_dump(exclude={"prompts"}),
            "prompts": _prompts(judge).digest,
            "limit": evaluate.limit,
        }
        if settings.references is not None:
            found["references"] = lock.files(settings.references)
        if isinstance(judge, LocalJudgeSettings):
            config = lock.completed(load_model_config(judge.model))
            files = lock.model(config)
            if isinstance(files, Unknown):
                return files
            found["judge_model"] = {"files": files, **config.model_dump(include=_DECISIVE)}
        return found

    def run(self, subject: Subject, evaluate: EvaluateConfig, resolved: Resolved) -> Evaluation:
        found = grade(
            self._asked(evaluate),
            subject.answers,
            _judge(self._judge_settings(evaluate), subject.runtime, resolved),
            _store(subject.runtime),
            benchmark=self.name,
            generation=None if subject.answers_given else evaluate.generation.model_dump(),
        )
        return found.model_copy(update={"comparable": found.comparable | {"limit": evaluate.limit}})

    def side_by_side(
        self,
        pair: Pair,
        runtime: RuntimeConfig,
        evaluate: EvaluateConfig,
        resolved: Resolved,
    ) -> Evaluation:
        """Let the judge compare both models' answers, in both orders."""
        found = compare(
            self._asked(evaluate),
            *pair,
            _judge(self._judge_settings(evaluate), runtime, resolved),
            _store(runtime),
            benchmark=self.name,
            generation=None,  # the answers are in the key, and one result has both
        )
        return found.model_copy(update={"comparable": found.comparable | {"limit": evaluate.limit}})

    def forecast(
        self,
        answers: Sequence[Sequence[Answer] | None],
        runtime: RuntimeConfig,
        evaluate: EvaluateConfig,
    ) -> Forecast | None:
        """Count what an endpoint will be asked; `None` for a local judge.

        Args:
            answers: one model's answers to grade, or two models' to compare; `None` for answers
                that are not generated yet, which count with their greatest possible length.
        """
        settings = self._judge_settings(evaluate)
        if isinstance(settings, LocalJudgeSettings):
            return None
        questions = self._asked(evaluate)
        known = [a or longest(questions, evaluate.generation.max_new_tokens) for a in answers]
        judge = OpenAiJudge(settings, _prompts(settings))
        if len(known) == 1:
            showing = single(questions, known[0], judge.prompts)
        else:
            showing = side_by_side(questions, known[0], known[1], judge.prompts)
        return judge.forecast(asks_of(questions, showing, judge), _store(runtime))

    def _asked(self, evaluate: EvaluateConfig) -> tuple[Question, ...]:
        return self.questions(evaluate)[: evaluate.limit]

    def _judge_settings(self, evaluate: EvaluateConfig) -> OpenAiJudgeSettings | LocalJudgeSettings:
        if evaluate.judge is None:
            raise UserError(
                f"{self.name} needs a judge: give evaluate.judge, for example --set "
                "'evaluate.judge={kind: openai, model: gpt-4-0613}' with OPENAI_API_KEY, or "
                "--set 'evaluate.judge={kind: local, model: NAME}', a model profile's"
            )
        return evaluate.judge

    def _settings(self, evaluate: EvaluateConfig) -> QuestionsSettings:
        settings: QuestionsSettings | None = getattr(evaluate, self.name)
        if settings is None:
            raise UserError(
                f"{self.name} needs its questions, which do not come with ILA: give "
                f"evaluate.{self.name}.questions (and .references), FastChat's files"
            )
        return settings


def _judge(
    settings: OpenAiJudgeSettings | LocalJudgeSettings,
    runtime: RuntimeConfig,
    resolved: Resolved,
) -> Judge:
    if isinstance(settings, LocalJudgeSettings):
        return _local_judge(settings, canonical(resolved["judge_model"]), runtime.device)
    limits = runtime.judge
    return OpenAiJudge(settings, _prompts(settings), limits=limits, budget=_budget(limits))


@lru_cache(maxsize=1)
def _budget(limits: JudgeLimits) -> Budget:
    """Return the budget that everything judged in this process shares."""
    return Budget(limits.requests, limits.tokens)


def _store(runtime: RuntimeConfig) -> VerdictStore:
    return VerdictStore(runtime.home / "verdicts")


def _prompts(settings: OpenAiJudgeSettings | LocalJudgeSettings) -> JudgePrompts:
    if isinstance(settings, LocalJudgeSettings):
        return JudgePrompts.short()
    return JudgePrompts.load(None if settings.prompts is None else Path(settings.prompts))


@lru_cache(maxsize=1)
def _local_judge(settings: LocalJudgeSettings, identity: str, device: str) -> Judge:
    """Load the judge once for all arms; it stays in memory beside the model under evaluation.

    Args:
        identity: canonical JSON of its files and of the settings that change its grades.
    """
    known = json.loads(identity)
    pinned = {"revision": known["files"].get("revision")} | {f: known[f] for f in _DECISIVE}
    config = load_model_config(settings.model).model_copy(update=pinned)
    model = load_base(config, resolve_device(device))
    return LocalJudge(model, load_tokenizer(config), name=config.name, files=identity)
