"""Generate a model's answers to a benchmark's questions, once for all judgements of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ila_core.config import BASE, EvaluateConfig
from ila_core.data.chat_template import Renderer
from ila_core.evaluate.benchmarks import AnswerBenchmark
from ila_core.inference.fastchat import write_fastchat
from ila_core.inference.generate import Answer, answer_all
from ila_core.models.loading import load_tokenizer
from tasks.cache.step import Context, Step
from tasks.steps.base import Base
from tasks.steps.resident import evaluated

VERSION = 2
_ANSWERS, _FASTCHAT = "answers.json", "fastchat.jsonl"


def answer(
    base: Base, adapter: Step | None, benchmark: AnswerBenchmark, settings: EvaluateConfig
) -> Step:
    """Describe the answers of the base model, or of the fine-tuned model `adapter`."""
    names = {"arm": BASE, "seed": None} if adapter is None else adapter.given["names"]
    identity = base.identify_training(
        "template",
        "template_variables",
        questions=benchmark.asked(settings, base.lock),
        generation=settings.generation,
        limit=settings.limit,
    )
    return Step(
        "answers",
        label=f"answers {benchmark.name} {called(names)}",
        version=VERSION,
        identity=identity,
        inputs={} if adapter is None else {"adapter": adapter},
        given={"base": base, "benchmark": benchmark, "evaluate": settings, "names": names},
    )


def called(names: Mapping[str, Any]) -> str:
    """Return what a model is called: its arm, and its seed where it has one."""
    return names["arm"] if names["seed"] is None else f"{names['arm']} seed {names['seed']}"


def compute(step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
    base: Base = step.given["base"]
    evaluate: EvaluateConfig = step.given["evaluate"]
    questions = step.given["benchmark"].questions(evaluate)[: evaluate.limit]
    tokenizer = load_tokenizer(base.pinned)

    def on_metrics(number: int, metrics: dict[str, float]) -> None:
        context.on_metrics(number, metrics | {"progress": number / len(questions)})

    context.checkpoints.mkdir(parents=True, exist_ok=True)
    with evaluated(base, step.inputs.get("adapter"), inputs.get("adapter"), context) as model:
        answers = answer_all(
            model,
            tokenizer,
            Renderer(tokenizer, base.config.template, base.config.template_variables),
            questions,
            settings=evaluate.generation,
            batch=context.runtime.eval_batch,
            partial=context.checkpoints / "answers.jsonl",
            on_metrics=on_metrics,
        )
    write(answers, f"{base.config.name}-{step.key}", out)


def write(answers: Sequence[Answer], model_id: str, out: Path) -> None:
    """Write the answers for `load`, and in FastChat's schema."""
    found = [a.model_dump(mode="json") for a in answers]
    (out / _ANSWERS).write_text(json.dumps(found, indent=1), encoding="ascii")
    write_fastchat(answers, model_id, out / _FASTCHAT)


def load(payload: Path) -> tuple[Answer, ...]:
    """Read the answers of a finished step."""
    found = json.loads((payload / _ANSWERS).read_bytes())
    return tuple(Answer.model_validate(a) for a in found)
