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
        label: shown beside the progress bar.
        total: planned number of `on_metrics` calls, or `None` when the step does not count.
    """

    def __init__(self, client: MlflowClient, run_id: str, label: str) -> None:
        self._client = client
        self._run_id = run_id
        self._label = label
        self._pending: list[tuple[int, int, dict[str, float]]] = []
        self._flushed = time.monotonic()
        self._artifact: UUID | None = None

    def on_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Record `metrics` at `step`; a metric called `progress` is a fraction for the UI's bar."""
        self._pending.append((int(time.time() * 1000), step, metrics))
        if time.monotonic() - self._flushed >= _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write out what is pending."""
        from mlflow.entities import Metric

        if not self._pending:
            return
        entries = [
            Metric(name, float(value), at, step)
            for at, step, metrics in self._pending
            for name, value in metrics.items()
        ]
        for start in range(0, len(entries), 1000):  # what MLflow takes in one batch
            self._client.log_batch(self._run_id, metrics=entries[start : start + 1000])
        last = self._pending[-1][2].get("progress")
        self._pending.clear()
        self._flushed = time.monotonic()
        if last is not None:
            self._show_progress(100 * last)

    def _show_progress(self, percent: float) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        if self._artifact is None:
            created = create_progress_artifact(percent, description=self._label)
            assert isinstance(created, UUID)
            self._artifact = created
        else:
            update_progress_artifact(self._artifact, percent)
