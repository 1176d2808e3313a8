"""Build the report: all results of a run on one page."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ila_core.compare.results import Evaluation
from ila_core.config import Profile
from ila_core.provenance import provenance
from ila_core.search.agreement import Agreement, Intersection
from ila_core.search.ranking import Ranking
from tasks.cache.payloads import MEASUREMENTS, read_json, read_result, write_json
from tasks.cache.step import Context, Step, in_order
from tasks.steps.finetune.selection import load as load_selection

VERSION = 5


def report(profile: Profile, ranking: Step, agreement: Step, results: Iterable[Step]) -> Step:
    """Describe the report of a run; its key leaves out the paths in the profile.

    Args:
        results: all other steps that the page shows, in the order of the run.
    """
    # By label: two datasets of equal content share their keys, and each has its place on the page.
    parts = {"ranking": ranking, "agreement": agreement} | {s.label: s for s in results}
    places: Any = {
        "model": {"source"},
        "datasets": {"__all__": {"source"}},
        "evaluate": {
            "adapters": True,
            "mmlu": {"path"},
            "hellaswag": {"path"},
            "general_text": {"path"},
            "vicuna": {"questions", "references"},
            "mt_bench": {"questions", "references"},
        },
    }
    return Step(
        "report",
        label="report",
        version=VERSION,
        identity={"profile": profile.model_dump(exclude=places)},
        inputs=parts,
        given={"profile": profile},
    )


def compute(step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
    from ila_core.report.comparison import compare_arms
    from ila_core.report.data import ReportData
    from ila_core.report.headline import headline
    from ila_core.report.page import build_page
    from ila_core.search.agreement_within_types import WithinTypes

    profile: Profile = step.given["profile"]
    agreed = read_json(inputs["agreement"] / "agreement.json")
    finetunes = _results("finetune", step, inputs)
    arms = compare_arms(
        _results("evaluation", step, inputs),
        finetunes,
        finetune=profile.finetune,
        evaluate=profile.evaluate,
    )
    data = ReportData(
        profile=profile,
        ranking=Ranking.load(inputs["ranking"] / "ranking.json"),
        agreements=tuple(Agreement.model_validate(a) for a in agreed["agreements"]),
        within_types=tuple(WithinTypes.model_validate(w) for w in agreed["within_types"]),
        intersection=Intersection.model_validate(agreed["intersection"]),
        selections={
            part.given["arm"].name: load_selection(inputs[name])
            for name, part in step.inputs.items()
            if part.name == "selection"
        },
        arms=arms,
        benchmarks=_benchmarks(step, inputs),
        prepared={
            part.given["names"]["dataset"]: read_json(inputs[name] / "prepared.json")
            for name, part in step.inputs.items()
            if part.name == "prepare"
        },
        stage1=tuple(_results("stage1", step, inputs)),
        scores=tuple(_results("stage2", step, inputs) + _results("score", step, inputs)),
        masks=tuple(_results("mask", step, inputs)),
        keys={part.label: str(part.key) for part in in_order(step)},
        provenance=_provenance(inputs),
    )
    (out / "report.html").write_text(build_page(data), encoding="utf-8")
    write_json(
        out / "report.json",
        {"headline": headline(data), "arms": [arm.model_dump(mode="json") for arm in arms]},
    )


def _results(kind: str, step: Step, inputs: dict[str, Path]) -> list[dict[str, Any]]:
    """Read the results of every step of `kind`."""
    return [read_result(x, inputs[name]) for name, x in step.inputs.items() if x.name == kind]


def _benchmarks(
    step: Step, inputs: dict[str, Path]
) -> dict[str, dict[str, tuple[Evaluation, ...]]]:
    """Read the evaluations by arm and benchmark, without held-out loss (`compare_arms`)."""
    found: dict[str, dict[str, tuple[Evaluation, ...]]] = {}
    for name, part in step.inputs.items():
        if part.name == "evaluation" and part.given["benchmark"].name != "held_out_loss":
            result = Evaluation.load(inputs[name] / "evaluation.json")
            of_arm = found.setdefault(part.given["names"]["arm"], {})
            of_arm[result.benchmark] = (*of_arm.get(result.benchmark, ()), result)
    return found


def _provenance(inputs: dict[str, Path]) -> dict[str, object]:
    """Return where this page and its results were computed."""
    places = [read_json(folder / MEASUREMENTS)["provenance"] for folder in inputs.values()]
    here = provenance()
    others = [place for i, place in enumerate(places) if place != here and place not in places[:i]]
    return {"this page": here} | {f"also computed on {i}": p for i, p in enumerate(others, 1)}
