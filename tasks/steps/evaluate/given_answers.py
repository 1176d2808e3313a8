"""Read another model's answers from a file in FastChat's schema."""

from pathlib import Path

from ila_core.config import EvaluateConfig
from ila_core.evaluate.benchmarks import AnswerBenchmark
from ila_core.inference.fastchat import read_fastchat
from tasks.cache.step import Context, Step
from tasks.steps.base import Base
from tasks.steps.evaluate.answers import write

VERSION = 1


def given_answers(
    base: Base, name: str, path: str, benchmark: AnswerBenchmark, settings: EvaluateConfig
) -> Step:
    """Describe the answers of the model `name` to a benchmark's questions.

    Raises:
        UserError: when there is no such file, or it does not answer each question exactly once.
    """
    questions = benchmark.questions(settings)
    identity = {
        "file": base.lock.files(path),
        "questions": benchmark.asked(settings, base.lock),
        "limit": settings.limit,
    }
    # All of it, whatever the limit: a file of another question set is none that was cut short.
    answers = read_fastchat(Path(path), questions)[: settings.limit]
    return Step(
        "given-answers",
        label=f"answers {benchmark.name} {name}",
        version=VERSION,
        identity=identity,
        given={"answers": answers, "name": name, "names": {"arm": name, "seed": None}},
    )


def compute(step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
    write(step.given["answers"], step.given["name"], out)
