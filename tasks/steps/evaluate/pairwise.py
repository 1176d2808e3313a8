"""Let a judge compare two models' answers side by side, in both orders."""

from pathlib import Path

from ila_core.resolve import Unknown
from tasks.cache.payloads import write_json
from tasks.cache.step import Context, Step
from tasks.steps.evaluate.answers import called, load

VERSION = 1


def pair(a: Step, b: Step) -> Step:
    """Describe the comparison of the answers that two evaluations of one benchmark graded."""
    benchmark, resolved = a.given["benchmark"], a.given["resolved"]
    first, second = a.given["names"], b.given["names"]
    identity: dict[str, object] | Unknown = resolved
    if not isinstance(resolved, Unknown):
        identity = {
            "benchmark": benchmark.name,
            "benchmark_version": benchmark.version,
            "settings": resolved,
        }
    return Step(
        "pairwise",
        label=f"{benchmark.name} {called(first)} beside {called(second)}",
        version=VERSION,
        identity=identity,
        inputs={"first": a.inputs["answers"], "second": b.inputs["answers"]},
        given={
            "benchmark": benchmark,
            "evaluate": a.given["evaluate"],
            "resolved": resolved,
            "names": {
                **first, "against": second["arm"], "against_seed": second["seed"],
            },
        },
    )  # fmt: skip


def compute(step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
    benchmark = step.given["benchmark"]
    result = benchmark.side_by_side(
        (load(inputs["first"]), load(inputs["second"])),
        context.runtime,
        step.given["evaluate"],
        step.given["resolved"],
    )
    context.on_metrics(0, {f"{benchmark.name}/share_of_wins": result.value})
    write_json(out / "evaluation.json", result.model_dump(mode="json", exclude_defaults=True))
