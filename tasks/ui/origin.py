"""The Prefect flow run behind a step's MLflow run, so that each can link to the other."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True)
class Origin:
    """The flow run that a user or a schedule started."""

    flow_run_id: str
    name: str
    url: str | None
    """Address of its page; `None` on a temporary server."""

    @classmethod
    def here(cls) -> Origin:
        """Return the current flow run, or the parent run of a subflow."""
        from prefect.client.orchestration import get_client
        from prefect.runtime import flow_run
        from prefect.settings import PREFECT_API_URL
        from prefect.utilities.urls import url_for

        root = UUID(flow_run.root_flow_run_id)
        with get_client(sync_client=True) as client:
            name = client.read_flow_run(root).name
        lasting = PREFECT_API_URL.value() is not None
        return cls(str(root), name, url_for("flow-run", obj_id=root) if lasting else None)

    @property
    def tags(self) -> dict[str, str]:
        """Tags for its MLflow runs; MLflow shows the note, which has a link, on the run's page."""
        tags = {"ila.flow_run": self.name, "ila.flow_run_id": self.flow_run_id}
        if self.url is None:
            return tags
        note = f"Computed for Prefect's flow run [{self.name}]({self.url})."
        return tags | {"ila.flow_run_url": self.url, "mlflow.note.content": note}
