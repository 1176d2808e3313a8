"""What a flow run came to, as a page of the Prefect UI: plan, numbers, and where the rest is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from uuid import UUID

from tasks.lookup import StepRun
from tasks.origin import Origin
from tasks.step import Step
from tasks.steps.payload import read_json
from tasks.store import Store

_TABLES = {"ranking": "layers by rank", "agreement": "agreement", "evaluation": "every subject"}
"""Steps with a table of their own in the UI (`tasks.artifacts`), and what it shows."""


def publish_summary(
    name: str,
    until: str,
    steps: Sequence[Step],
    runs: Mapping[str, StepRun],
    store: Store,
    origin: Origin,
) -> None:
    """Write the page to the flow run that somebody started, whatever part of it this one is.

    Args:
        name: of the profile.
        until: what was asked for.
        steps: all of them, inputs first.
        runs: those that are finished, by key.
        store: where they are.
        origin: that flow run.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import ArtifactCreate

    page = ArtifactCreate(
        key="run-" + re.sub(r"[^a-z0-9]+", "-", name.lower()),
        type="markdown",
        description=f"{name}, until {until}",
        data="\n".join(_page(name, until, steps, runs, store, origin)),
        flow_run_id=UUID(origin.flow_run_id),
    )
    with get_client(sync_client=True) as client:
        client.create_artifact(page)


def _page(
    name: str,
    until: str,
    steps: Sequence[Step],
    runs: Mapping[str, StepRun],
    store: Store,
    origin: Origin,
) -> Iterator[str]:
    states = {str(step.key): _state(runs.get(str(step.key)), origin) for step in steps}
    counts = Counter(states.values())
    yield f"# {name}, until {until}\n"
    yield ", ".join(f"**{n}** {state}" for state, n in counts.items()) + ".\n"
    for step in steps:
        if step.name == "report" and str(step.key) in runs:
            told = read_json(store.fetch(runs[str(step.key)]) / "report.json")["headline"]
            yield from (f"> {line}\n>" for line in told)
            where = store.page(runs[str(step.key)])
            yield f"\nThe report is `payload/report.html` of {_link('its run', where)}.\n"
    yield "| step | state | run in MLflow | result | key |"
    yield "|---|---|---|---|---|"
    for step in steps:
        run = runs.get(str(step.key))
        found = "" if run is None else _result(step, run, store)
        where = "" if run is None else _link(run.run_id[:8], store.page(run))
        yield f"| {step.label} | {states[str(step.key)]} | {where} | {found} | `{step.key}` |"


def _state(run: StepRun | None, origin: Origin) -> str:
    if run is None:
        return "not finished"
    return "computed" if run.tags.get("ila.flow_run_id") == origin.flow_run_id else "cached"


def _result(step: Step, run: StepRun, store: Store) -> str:
    """The number of an evaluation, and the table that the UI has of this step."""
    told = ""
    if step.name == "evaluation":
        from ila_core.evaluation.result import Evaluation

        result = Evaluation.load(store.fetch(run) / "evaluation.json")
        told = f"{result.value:.4g} {result.unit}, {result.better} is better; "
    if step.name in _TABLES:
        told += f"[{_TABLES[step.name]}](/artifacts/key/{step.name}-{step.key})"
    return told


def _link(text: str, url: str | None) -> str:
    return text if url is None else f"[{text}]({url})"
