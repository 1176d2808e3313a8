"""The page of a flow run in the Prefect UI: its plan, its results, and links to the rest."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from tasks.cache.payloads import read_json
from tasks.cache.step import Step
from tasks.cache.step_run import StepRun
from tasks.cache.store import Store
from tasks.ui.origin import Origin

_TABLES = {"ranking": "layers by rank", "agreement": "agreement", "evaluation": "every subject"}
"""Steps that have a table in the UI (`tasks.ui.tables`), with its title."""


@dataclass(frozen=True)
class Summary:
    """The steps that a flow run was asked for, and their results."""

    name: str
    """Name of the profile."""
    until: str
    """The target that was asked for, such as `report`."""
    steps: Sequence[Step]
    """All steps, inputs first."""
    runs: Mapping[str, StepRun]
    """The finished runs, by key."""
    store: Store
    """The store of the runs."""
    origin: Origin
    """The flow run that a user or a schedule started, also within its subflows."""

    def publish(self) -> None:
        """Write the page to the flow run `origin`."""
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.actions import ArtifactCreate

        page = ArtifactCreate(
            key="run-" + re.sub(r"[^a-z0-9]+", "-", self.name.lower()),
            type="markdown",
            description=f"{self.name}, until {self.until}",
            data="\n".join(self._page()),
            flow_run_id=UUID(self.origin.flow_run_id),
        )
        with get_client(sync_client=True) as client:
            client.create_artifact(page)

    def _page(self) -> Iterator[str]:
        states = {str(step.key): self._state(step) for step in self.steps}
        counts = Counter(states.values())
        yield f"# {self.name}, until {self.until}\n"
        yield ", ".join(f"**{n}** {state}" for state, n in counts.items()) + ".\n"
        for step in self.steps:
            if step.name == "report" and (run := self.runs.get(str(step.key))):
                told = read_json(self.store.fetch(run) / "report.json")["headline"]
                yield from (f"> {line}\n>" for line in told)
                where = _link("its run", self.store.page(run))
                yield f"\nThe report is `payload/report.html` of {where}.\n"
        yield "| step | state | run in MLflow | result | key |"
        yield "|---|---|---|---|---|"
        for step in self.steps:
            run = self.runs.get(str(step.key))
            found = "" if run is None else _result(step, run, self.store)
            where = "" if run is None else _link(run.run_id[:8], self.store.page(run))
            yield f"| {step.label} | {states[str(step.key)]} | {where} | {found} | `{step.key}` |"

    def _state(self, step: Step) -> str:
        run = self.runs.get(str(step.key))
        if run is None:
            return "not finished"
        ours = run.tags.get("ila.flow_run_id") == self.origin.flow_run_id
        return "computed" if ours else "cached"


def _result(step: Step, run: StepRun, store: Store) -> str:
    """Return an evaluation's value and a link to the step's table."""
    told = ""
    if step.name == "evaluation":
        from ila_core.compare.results import Evaluation

        result = Evaluation.load(store.fetch(run) / "evaluation.json")
        told = f"{result.value:.4g} {result.unit}, {result.better} is better; "
    if step.name in _TABLES:
        told += f"[{_TABLES[step.name]}](/artifacts/key/{step.name}-{step.key})"
    return told


def _link(text: str, url: str | None) -> str:
    return text if url is None else f"[{text}]({url})"
