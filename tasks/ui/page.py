"""What a flow run came to, as a page of the Prefect UI: plan, numbers, and where the rest is."""

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
"""Steps with a table of their own in the UI (`tasks.ui.tables`), and what it shows."""


@dataclass(frozen=True)
class Summary:
    """What somebody asked for and what became of it."""

    name: str
    """The profile's name."""
    until: str
    """Which steps were asked for."""
    steps: Sequence[Step]
    """All of them, inputs first."""
    runs: Mapping[str, StepRun]
    """Those that are finished, by key."""
    store: Store
    """Where they are."""
    origin: Origin
    """The flow run that somebody started, whatever part of it this one is."""

    def publish(self) -> None:
        """Write the page to the flow run that somebody started."""
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
    """The number of an evaluation, and the table that the UI has of this step."""
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
