"""The cache: one MLflow run per step; status FINISHED is the commit marker, set last.

Who computes a step is `tasks.cache.claim`'s part.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from ila_core.config import RuntimeConfig
from ila_core.errors import CheckError
from tasks.cache.claim import Claims
from tasks.cache.lookup import Lookup, open_lookup
from tasks.cache.mlflow_lookup import step_run
from tasks.cache.payloads import PAYLOAD, fetch, payload_digest
from tasks.cache.step import Step
from tasks.cache.step_run import StepRun
from tasks.tracking.client import experiment_name, open_client, shown, sqlite_path


class Store(Claims):
    """Claims, commits and reads step runs of one base model's experiment.

    Args:
        runtime: which store.
        base_model: whose experiment.
        origin: tags of every run made here: what it was made for (`tasks.ui.origin`).
    """

    def __init__(
        self, runtime: RuntimeConfig, base_model: str, origin: Mapping[str, str] | None = None
    ) -> None:
        self.client = open_client(runtime.tracking_uri)
        self._origin = dict(origin or {})
        self._uri, self._home = runtime.tracking_uri, runtime.home
        self.experiment_id = self._experiment(experiment_name(base_model), runtime)
        self.lookup: Lookup = open_lookup(runtime, base_model)

    def _experiment(self, name: str, runtime: RuntimeConfig) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        local = sqlite_path(runtime.tracking_uri) is not None
        artifacts = (runtime.home / "artifacts").as_uri() if local else None
        try:
            return str(self.client.create_experiment(name, artifact_location=artifacts))
        except MlflowException:  # lost the race to create it
            found = self.client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)

    def commit(self, run: StepRun, folder: Path) -> StepRun:
        """Upload the payload, record its digest, and only then mark the run FINISHED."""
        digest = payload_digest(folder)
        self.client.log_artifacts(run.run_id, str(folder), PAYLOAD)
        self.client.set_tag(run.run_id, "ila.digest", digest)
        self.client.set_terminated(run.run_id, "FINISHED")
        return self.read(run.run_id)

    def page(self, run: StepRun) -> str | None:
        """Where MLflow's web page shows the run; `None` where no server does."""
        if not self._uri.startswith("http"):
            return None
        return f"{shown(self._uri)}/#/experiments/{self.experiment_id}/runs/{run.run_id}"

    def read(self, run_id: str) -> StepRun:
        """Read the run as it is now."""
        return step_run(self.client.get_run(run_id))

    def fetch(self, run: StepRun) -> Path:
        """Return the payload as a local folder; quarantine one that does not match its digest.

        Raises:
            CheckError: what is stored is not what was committed.
        """
        try:
            return fetch(run, self._home, self.client)
        except CheckError:
            self.client.set_tag(run.run_id, "ila.state", "quarantined")
            raise

    def finished(self, step: Step) -> list[str]:
        """Ids of all valid finished runs of `step`, whatever they were made from."""
        assert step.key is not None
        return [run.run_id for run in self.lookup.finished(step.key)]

    def supersede(self, run_ids: Iterable[str], by: StepRun, reason: str) -> None:
        """Mark finished runs as no hits any more, with what replaced them and why."""
        for run_id in run_ids:
            self.client.set_tag(run_id, "ila.superseded_by", by.run_id)
            self.client.set_tag(run_id, "ila.reason", reason)
            self.client.set_tag(run_id, "ila.state", "superseded")
