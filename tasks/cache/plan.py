"""What a run would do: each step HIT, MISS, RUNNING or UNKNOWN, and why. Computes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.cache.lookup import Lookup, hits
from tasks.cache.step import Step
from tasks.cache.step_run import StepRun


@dataclass(frozen=True)
class Planned:
    """One step of a plan."""

    step: Step
    state: str
    """HIT, MISS, RUNNING or UNKNOWN."""
    reason: str
    run: StepRun | None = None
    """Finished, of a HIT; one that is computed now is nothing to read from."""


def plan(steps: Sequence[Step], lookup: Lookup) -> list[Planned]:
    """Look up the state of each of `steps` (inputs before users)."""
    cached = hits(steps, lookup)
    missing = [step.key for step in steps if step.key is not None and step.key not in cached]
    running = {run.key: run for run in reversed(lookup.running(*missing)) if run.alive}
    similar: dict[str, list[StepRun]] = {}
    planned = []
    for step in steps:
        if step.key is None:
            planned.append(Planned(step, "UNKNOWN", str(step.unknown)))
        elif step.key in cached:
            planned.append(Planned(step, "HIT", "", cached[step.key]))
        elif step.key in running:
            planned.append(Planned(step, "RUNNING", f"computed now by {who(running[step.key])}"))
        else:
            if step.name not in similar:
                similar[step.name] = lookup.finished_steps(step.name)
            planned.append(Planned(step, "MISS", _why(step, similar[step.name])))
    return planned


def who(run: StepRun) -> str:
    """Who computes a run and how far that is: `gpu-7, process 4242, 43 %`."""
    host, pid = run.tags["ila.owner"].split(":")[:2]
    done = "" if run.progress is None else f", {run.progress:.0%}".replace("%", " %")
    return f"{host}, process {pid}{done}"


def _why(step: Step, candidates: Sequence[StepRun]) -> str:
    """Name the fields in which `step` differs from the nearest cached run."""
    if not candidates:
        return f"no {step.name} is cached yet"
    if any(run.key == step.key for run in candidates):
        return "an input it was made from has been refreshed since"
    wanted = {**step.fields, "step version": str(step.version)}
    differences = [_difference(wanted, run) for run in candidates]
    nearest = min(differences, key=len)
    shown = [f"{name}: {was} -> {now}" for name, (was, now) in sorted(nearest.items())]
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return ", ".join(shown[:3]) + more


def _difference(wanted: dict[str, str], run: StepRun) -> dict[str, tuple[str, str]]:
    had = {**run.params, "step version": run.tags["ila.version"]}
    return {
        name: (_short(had.get(name, "not set")), _short(wanted.get(name, "not set")))
        for name in {*wanted, *had}
        if had.get(name) != wanted.get(name)
    }


def _short(value: str) -> str:
    return value if len(value) <= 40 else f"{value[:37]}..."
