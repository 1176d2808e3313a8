"""One MLflow run of one step, as it is read from any store."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from ila_core.keys import digest_of

HEARTBEAT_TTL_SECONDS = 30.0


@dataclass(frozen=True)
class StepRun:
    """One MLflow run of one step."""

    run_id: str
    status: str
    start_time: int
    artifact_uri: str
    tags: dict[str, str]
    params: dict[str, str]
    end_time: int | None = None
    """Milliseconds since 1970, like `start_time`; `None` while it runs."""
    progress: float | None = None
    """The fraction that is done, of a run that says so."""

    @property
    def key(self) -> str:
        return self.tags["ila.key"]

    @property
    def digest(self) -> str:
        """Digest of the payload, set just before the run is FINISHED."""
        return self.tags["ila.digest"]

    @property
    def upstream(self) -> str:
        """`upstream_digest` of the inputs it was made from."""
        return self.tags["ila.upstream"]

    @property
    def alive(self) -> bool:
        """Whether somebody is computing this step now."""
        beat = float(self.tags.get("ila.heartbeat", 0))
        return self.status == "RUNNING" and time.time() - beat < HEARTBEAT_TTL_SECONDS


def upstream_digest(inputs: Mapping[str, StepRun]) -> str:
    """One digest over those of all inputs' payloads: MLflow's tags end at 8,000 characters."""
    return digest_of({name: run.digest for name, run in inputs.items()})
