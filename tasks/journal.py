"""What a running step tells the world: metrics to MLflow, progress to the Prefect UI."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from mlflow import MlflowClient

_FLUSH_SECONDS = 2.0


class Journal:
    """Buffers a step's metrics and writes them out every two seconds.

    Args:
        client: MLflow's client.
        run_id: the step's MLflow run.
        label: shown beside the progress bar of the Prefect UI.
    """

    def __init__(self, client: MlflowClient, run_id: str, label: str) -> None:
        self._client = client
        self._run_id = run_id
        self._label = label
        self._pending: list[tuple[int, int, dict[str, float]]] = []
        self._flushed = time.monotonic()
        self._bar: UUID | None = None

    def on_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Record `metrics` at `step`; the one called `progress` is a fraction, for the bar."""
        self._pending.append((int(time.time() * 1000), step, metrics))
        if time.monotonic() - self._flushed >= _FLUSH_SECONDS:
            self._flush()

    def close(self) -> None:
        """Write out what is pending; a bar that was shown is full, however early the step ended."""
        self._flush()
        if self._bar is not None:
            self._show(1.0)

    def _flush(self) -> None:
        from mlflow.entities import Metric

        entries = [
            Metric(name, float(value), at, step)
            for at, step, metrics in self._pending
            for name, value in metrics.items()
        ]
        for start in range(0, len(entries), 1000):  # what MLflow takes in one batch
            self._client.log_batch(self._run_id, metrics=entries[start : start + 1000])
        if self._pending and "progress" in self._pending[-1][2]:
            self._show(self._pending[-1][2]["progress"])
        self._pending.clear()
        self._flushed = time.monotonic()

    def _show(self, progress: float) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        if self._bar is None:
            created = create_progress_artifact(100 * progress, description=self._label)
            assert isinstance(created, UUID)
            self._bar = created
        else:
            update_progress_artifact(self._bar, 100 * progress)
