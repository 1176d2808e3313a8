"""What a running step tells the world: metrics to MLflow, progress to the Prefect UI."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import UUID

from ila_core.errors import first_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("ila")

_FLUSH_SECONDS = 2.0
_PAUSE_SECONDS = 30.0
"""At least, between tries while a server does not answer."""


@contextmanager
def tolerate_outage(what: str) -> Iterator[None]:
    """Log an outage of a server within the block instead of raising it: hours of training are not
    lost to a bad minute. When the step is committed the server must answer."""
    from httpx import HTTPError
    from mlflow.exceptions import MlflowException

    outages: tuple[type[Exception], ...] = (MlflowException, HTTPError)
    if "prefect" in sys.modules:  # not where a run leaves it out
        from prefect.exceptions import PrefectException

        outages = (*outages, PrefectException)
    try:
        yield
    except outages as error:
        log.warning("%s for now: %s", what, first_line(error))


class Pace:
    """How often a server is told or asked: every so many seconds, and seldom while it is away.

    Training stands still meanwhile, and Prefect's client tries for a minute before it gives up.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = time.monotonic() + seconds

    def due(self) -> bool:
        """Whether the interval has passed since the last time."""
        return time.monotonic() >= self._next

    @contextmanager
    def tolerate_outage(self, what: str) -> Iterator[None]:
        """Tolerate an outage; while the server is away, tries take a tenth of the time at most."""
        began, answered = time.monotonic(), False
        with tolerate_outage(what):
            yield
            answered = True
        now = time.monotonic()
        self._next = now + (self._seconds if answered else max(_PAUSE_SECONDS, 9 * (now - began)))


class Bar:
    """A progress bar among the artifacts of the Prefect task that shows it first.

    Args:
        label: beside it.
        shown: whether there is one; outside of a flow it would start a server for it.
    """

    def __init__(self, label: str, *, shown: bool) -> None:
        self._label, self._shown = label, shown
        self._artifact: UUID | None = None

    def show(self, progress: float) -> None:
        """Show a fraction from 0 to 1."""
        if not self._shown:
            return
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        if self._artifact is None:
            created = create_progress_artifact(100 * progress, description=self._label)
            assert isinstance(created, UUID)
            self._artifact = created
        else:
            update_progress_artifact(self._artifact, 100 * progress)

    def fill(self) -> None:
        """Show a full bar, if one was ever shown. A result is committed even where this fails."""
        if self._artifact is not None:
            with tolerate_outage(f"{self._label}: its bar stays as it is"):
                self.show(1.0)


class Journal:
    """Buffers a step's metrics and writes them out every two seconds.

    Args:
        client: MLflow's client.
        run_id: the step's MLflow run.
        label: shown beside the progress bar of the Prefect UI.
        bar: whether there is one; outside of a flow it would start a server for it.
    """

    def __init__(self, client: MlflowClient, run_id: str, label: str, bar: bool = True) -> None:
        self._client = client
        self._run_id = run_id
        self._label = label
        self._bar = Bar(label, shown=bar)
        self._pending: list[tuple[int, int, dict[str, float]]] = []
        self._pace = Pace(_FLUSH_SECONDS)

    def on_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Record `metrics` at `step`; the one called `progress` is a fraction, for the bar."""
        self._pending.append((int(time.time() * 1000), step, metrics))
        if self._pace.due():
            with self._pace.tolerate_outage(f"{self._label}: progress is kept back"):
                self._flush()
                if "progress" in metrics:
                    self._bar.show(metrics["progress"])

    def close(self) -> None:
        """Write out what is pending, or fail; a bar that was shown is full, if Prefect takes it."""
        self._flush()
        self._bar.fill()

    def _flush(self) -> None:
        from mlflow.entities import Metric

        entries = [
            Metric(name, float(value), at, step)
            for at, step, metrics in self._pending
            for name, value in metrics.items()
        ]
        for start in range(0, len(entries), 1000):  # what MLflow takes in one batch
            self._client.log_batch(self._run_id, metrics=entries[start : start + 1000])
        self._pending.clear()
