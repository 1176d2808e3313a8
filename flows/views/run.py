"""The output of `ila run`, `search`, `plan`, `report`, `control`, `reproduce` and `doctor`."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flows.results.check import Check
from flows.results.profile_plan import ProfilePlan
from flows.results.reproduction import Result
from flows.views.printing import print_frame, print_json, print_table
from ila_core.config import ModelConfig, RuntimeConfig, SearchConfig
from ila_core.data.counts import said_of
from ila_core.selection.select import lora_parameters
from tasks.cache.payloads import fetch
from tasks.cache.plan import Planned
from tasks.cache.step_run import StepRun

if TYPE_CHECKING:
    from ila_core.search.control import ControlResult


def show_plan(
    planned: ProfilePlan, rows: Mapping[str, Mapping[str, Any]], *, as_json: bool
) -> None:
    """Print every step's state, key and reason, then rows, layers and trainable parameters."""
    layers = planned.pipeline.base.layers
    r = planned.profile.search.stage1.lora.r
    facts = {
        "profile": planned.profile.name,
        "base_model": planned.profile.model.name,
        "layers": len(layers),
        "share_of_matrix_weights": planned.pipeline.base.share,
        "lora_parameters_all_layers": lora_parameters(layers, r),
        "datasets": rows,
        "same_training": planned.pipeline.arms.alike,
        "steps": [
            {"step": p.step.label, "state": p.state, "key": p.step.key, "reason": p.reason}
            for p in planned.steps
        ],
    }
    if as_json:
        return print_json(facts)
    print_table(
        ["state", "step", "key", "why"],
        [[p.state, p.step.label, p.step.key or "UNKNOWN", p.reason] for p in planned.steps],
    )
    for name, found in rows.items():
        split = ", ".join(f"{n:,} {split}" for split, n in found["rows"].items())
        typer.echo(f"{name}: rows: {split}")
        for line in said_of(found):
            typer.echo(f"  {line}")
    for arm, other in planned.pipeline.arms.alike.items():
        typer.echo(f"arm {arm} trains what {other} does: one training, shown under both names")
    for line in _said_of_model(planned.given.model, planned.profile.model):
        typer.echo(line)
    counts = Counter(p.state for p in planned.steps)
    typer.echo(
        f"{planned.profile.model.name}: {len(layers)} layers with "
        f"{facts['share_of_matrix_weights']:.1%} of its matrix weights, "
        f"{facts['lora_parameters_all_layers']:,} trainable parameters with LoRA r {r} on all; "
        + ", ".join(f"{n} {state}" for state, n in counts.items())
    )


def _said_of_model(given: ModelConfig, found: ModelConfig) -> list[str]:
    """What the model's own files decided, a line each."""
    lines = []
    if given.dtype == "auto":
        lines.append(f"weights are loaded as {found.dtype} (model.dtype)")
    if given.lm_head == "auto" and found.lm_head == "untie":
        lines.append("the output head, which is the input embedding, is untied (model.lm_head)")
    if given.template is None and found.template is not None:
        lines.append(
            "the tokenizer has no chat template: ILA's own is used (model.template: plain)"
        )
    return [f"{found.name}: {line}" for line in lines]


def _was_cached(planned: Planned, run: StepRun) -> bool:
    """Return whether a step was cached, or another process computed it meanwhile."""
    if planned.run is not None:
        return planned.run.run_id == run.run_id
    from tasks.cache.claim import owner

    return run.tags["ila.owner"] != owner()


def show_result(
    planned: ProfilePlan, runs: Mapping[str, StepRun], until: str, seconds: float, *, as_json: bool
) -> None:
    """Print the results of a run, how much of it was cached, and where the report is."""
    total = len(planned.steps)
    cached = sum(_was_cached(p, runs[str(p.step.key)]) for p in planned.steps)
    last = planned.pipeline.targets(until)[-1]
    payload = fetch(runs[str(last.key)])
    answer: dict[str, Any] = {
        "profile": planned.profile.name,
        "steps": {p.step.label: runs[str(p.step.key)].key for p in planned.steps},
        "cached": cached,
        "computed": total - cached,
        "seconds": round(seconds, 2),
        "ranking": f"key:{planned.pipeline.ranking.key}",
    }
    if until == "report":
        page = publish_page(runs[str(last.key)], planned.profile.name)
        summary = json.loads((payload / "report.json").read_bytes())
        answer |= {"headline": summary["headline"], "report": str(page)}
    if as_json:
        return print_json(answer)
    if cached == total:
        typer.echo(f"all {cached} steps cached; nothing was computed ({seconds:.1f} s)")
    else:
        typer.echo(f"{answer['computed']} steps computed, {cached} cached ({seconds:.0f} s)")
    for line in answer.get("headline", []):
        typer.echo(f"  {line}")
    typer.echo(f"ranking: key:{planned.pipeline.ranking.key}   (ila rankings show ...)")
    if until == "report":
        typer.echo(f"report:  {answer['report']}")


def show_report(run: StepRun, *, out: Path | None, as_json: bool) -> None:
    """Print the path of the page, after copying it to `out` if given."""
    page = publish_page(run, json.loads(run.params["profile.name"]))
    if out is not None:
        shutil.copyfile(page, out)
        page = out
    if as_json:
        return print_json({"key": run.key, "report": str(page)})
    typer.echo(str(page))


def publish_page(run: StepRun, profile: str) -> Path:
    """Copy the report from the cache to `ILA_HOME/reports/<profile>.html`; return that path."""
    page = RuntimeConfig.from_env().home / "reports" / f"{profile}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(fetch(run) / "report.html", page)
    return page


def show_control(
    results: Mapping[str, ControlResult], search: SearchConfig, *, min_auc: float, as_json: bool
) -> None:
    """Print the AUC of every dataset, with what this number of draws can show."""
    settings = search.control
    if as_json:
        return print_json(
            {
                "scorer": search.scorer,
                "min_auc": min_auc,
                "passed": all(r.mean >= min_auc for r in results.values()),
                "datasets": {name: r.model_dump(mode="json") for name, r in results.items()},
            }
        )
    typer.echo(
        f"noise of {settings.factor:g} standard deviations in {100 * settings.fraction:g} % of the "
        f"layers, {len(settings.seeds)} draws; AUC of `{search.scorer}` finding them (chance 0.5)"
    )
    rows = []
    for name, found in results.items():
        interval = "-" if found.low is None else f"{found.low:.3f} to {found.high:.3f}"
        if found.imperfect_at_most is not None:
            interval = f"all 1; a draw below 1 has probability < {found.imperfect_at_most:.2f}"
        each = ", ".join(f"{auc:.3f}" for auc in found.aucs.values())
        verdict = "found" if found.mean >= min_auc else f"below {min_auc:g}"
        rows.append([name, f"{found.mean:.3f}", interval, each, verdict])
    print_table(["dataset", "AUC", "95 %", "by draw", ""], rows)


def show_reproduction(
    results: Mapping[str, Result], files: Mapping[str, Sequence[Path]], *, as_json: bool
) -> None:
    """Print our tables beside the paper's, and the paths of the figures."""
    import pandas as pd

    if as_json:
        return print_json(
            {
                name: {
                    "title": r.title,
                    "tables": {what or "rows": rows for what, rows in r.tables.items()},
                    "notes": r.notes,
                    "files": list(map(str, files[name])),
                }
                for name, r in results.items()
            }
        )
    for name, result in results.items():
        typer.echo(result.title)
        for what, rows in result.tables.items():
            if what:
                typer.echo(f"  {what}")
            print_frame(pd.DataFrame(rows))
        for note in result.notes:
            typer.echo(f"  {note}")
        for path in files[name]:
            typer.echo(f"  {path}")


def show_checks(checks: Sequence[Check], *, as_json: bool) -> None:
    """Print the doctor's checks; exit with 1 if one failed."""
    if as_json:
        print_json([vars(check) for check in checks])
    else:
        print_table(["", "what", "found", "advice"],
               [[c.state, c.name, c.found, c.advice] for c in checks])  # fmt: skip
    if any(check.state == "failed" for check in checks):
        sys.exit(1)
