"""Which steps are cached: two readers of MLflow's records answer the same questions."""

from collections.abc import Iterable
from typing import Protocol

from ila_core.config import RuntimeConfig
from tasks.cache.mlflow_lookup import ClientLookup
from tasks.cache.sqlite_lookup import SqliteLookup
from tasks.cache.step import Step
from tasks.cache.step_run import StepRun, upstream_digest
from tasks.tracking.client import experiment_name, sqlite_path


class Lookup(Protocol):
    def finished(self, *keys: str) -> list[StepRun]:
        """Find the valid FINISHED runs of any of `keys`, oldest first."""

    def running(self, *keys: str) -> list[StepRun]:
        """Find the RUNNING runs of any of `keys`, oldest first; `alive` or not."""

    def finished_steps(self, name: str) -> list[StepRun]:
        """Valid FINISHED runs of the step called `name`, newest first, at most 200."""

    def finished_with(self, name: str, param: str, value: str) -> list[StepRun]:
        """All valid FINISHED runs of the step called `name` with that field, oldest first."""


def open_lookup(runtime: RuntimeConfig, base_model: str | None = None) -> Lookup:
    """Open the reader for `runtime.tracking_uri`; `None` reads all base models' experiments."""
    experiment = experiment_name(base_model or "%")
    if (path := sqlite_path(runtime.tracking_uri)) is not None:
        return SqliteLookup(path, experiment)

    return ClientLookup(runtime.tracking_uri, experiment)


def hits(steps: Iterable[Step], lookup: Lookup) -> dict[str, StepRun]:
    """Key to cached run, for every step of `steps` (inputs first) that is cached.

    A hit is the oldest valid run whose recorded input digests are those of its inputs' hits: when
    an input is refreshed and comes out different, what was made from the old one is no hit.
    """
    steps = list(steps)
    of_key: dict[str, list[StepRun]] = {}
    for cached in lookup.finished(*(step.key for step in steps if step.key is not None)):
        of_key.setdefault(cached.key, []).append(cached)
    found: dict[str, StepRun] = {}
    for step in steps:
        if step.key is None or any(up.key not in found for up in step.inputs.values()):
            continue
        expected = upstream_digest({name: found[str(up.key)] for name, up in step.inputs.items()})
        run = next((r for r in of_key.get(step.key, []) if r.upstream == expected), None)
        if run is not None:
            found[step.key] = run
    return found
