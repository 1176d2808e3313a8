"""Evaluate the base and every fine-tuned model, in one step per model and benchmark."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from ila_core.config import BASE, EvaluateConfig
from ila_core.data.prepared import Prepared
from ila_core.errors import unknown_name
from ila_core.evaluate.benchmarks import BENCHMARKS, AnswerBenchmark
from ila_core.evaluate.judged import Judged
from ila_core.evaluate.subject import Subject
from ila_core.keys import digest_of
from ila_core.models.loading import load_tokenizer
from ila_core.resolve import Unknown
from tasks.cache.payloads import write_json
from tasks.cache.step import Context, Step
from tasks.steps.base import Base
from tasks.steps.data.texts import load as load_texts
from tasks.steps.data.texts import sample
from tasks.steps.evaluate.answers import answer, called
from tasks.steps.evaluate.answers import load as load_answers
from tasks.steps.evaluate.given_answers import given_answers
from tasks.steps.resident import evaluated

VERSION = 2


def evaluate(
    base: Base, tuned: Mapping[str, Mapping[int, Step]], data: Step, settings: EvaluateConfig
) -> list[Step]:
    """Describe the evaluations of the base, each arm and seed, and given answers."""
    steps = []
    for name in settings.benchmarks:
        steps.append(_evaluation(base, None, data, name, settings))
        for adapters in tuned.values():
            for adapter in adapters.values():
                steps.append(_evaluation(base, adapter, data, name, settings))
        benchmark = BENCHMARKS[name]
        if isinstance(benchmark, Judged):
            for who, path in settings.answers.items():
                answers = given_answers(base, who, path, benchmark, settings)
                names = answers.given["names"]
                steps.append(_step(base, {"answers": answers}, names, name, settings))
    return steps


def _evaluation(
    base: Base, adapter: Step | None, data: Step, name: str, settings: EvaluateConfig
) -> Step:
    if name not in BENCHMARKS:
        raise unknown_name("benchmark", name, BENCHMARKS)
    benchmark = BENCHMARKS[name]
    names = {"arm": BASE, "seed": None} if adapter is None else adapter.given["names"]
    if "answers" in benchmark.needs:
        answers = answer(base, adapter, cast("AnswerBenchmark", benchmark), settings)
        return _step(base, {"answers": answers}, names, name, settings)
    inputs = {} if adapter is None else {"adapter": adapter}
    if "rows" in benchmark.needs:
        inputs["data"] = data
    if "texts" in benchmark.needs and settings.general_text.path is None:
        inputs["texts"] = sample(base, settings.general_text)
    return _step(base, inputs, names, name, settings)


def _step(
    base: Base,
    inputs: Mapping[str, Step],
    names: Mapping[str, object],
    name: str,
    settings: EvaluateConfig,
) -> Step:
    benchmark = BENCHMARKS[name]
    resolved = benchmark.identity(settings, base.lock)
    identity: dict[str, object] | Unknown = resolved
    if not isinstance(resolved, Unknown):
        identity = base.identify_training(
            benchmark=name, benchmark_version=benchmark.version, settings=resolved
        )
    return Step(
        "evaluation",
        label=f"{name} {called(names)}",
        version=VERSION,
        identity=identity,
        inputs=inputs,
        given={
            "base": base,
            "benchmark": benchmark,
            "evaluate": settings,
            "resolved": resolved,
            "names": names,
        },
    )


def compute(step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
    base: Base = step.given["base"]
    benchmark = step.given["benchmark"]
    more: dict[str, Any] = {}
    if "data" in inputs:
        prepared = Prepared.load(inputs["data"])
        more = {"rows": prepared.splits["held_out"], "rows_digest": prepared.digest}
    if "texts" in inputs:
        more["texts"] = load_texts(inputs["texts"])

    def on_progress(fraction: float) -> None:
        context.on_metrics(round(100 * fraction), {"progress": fraction})

    subject = Subject(
        model=None,
        tokenizer=load_tokenizer(base.pinned),
        identity=digest_of(base.files),
        runtime=context.runtime,
        on_progress=on_progress,
        checkpoints=context.checkpoints,
        **more,
    )
    if "answers" in inputs:
        subject = replace(
            subject,
            answers=load_answers(inputs["answers"]),
            answers_given=step.inputs["answers"].name == "given-answers",
        )
        result = benchmark.run(subject, step.given["evaluate"], step.given["resolved"])
    else:
        with evaluated(base, step.inputs.get("adapter"), inputs.get("adapter"), context) as model:
            subject = replace(subject, model=model)
            result = benchmark.run(subject, step.given["evaluate"], step.given["resolved"])
    found = {benchmark.name: result.value}
    if len(result.groups) > 1:
        found |= {f"{benchmark.name}/{group}": value for group, value in result.groups.items()}
    context.on_metrics(0, found)
    write_json(out / "evaluation.json", result.model_dump(mode="json", exclude_defaults=True))
