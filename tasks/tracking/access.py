"""What the caller may do on an MLflow server: whether it answers, as whom, and who may write."""

from dataclasses import dataclass
from typing import Any

from tasks.tracking.client import experiment_name, open_client, translate_mlflow_errors
from tasks.tracking.ranking_version import PREFIX

_CURRENT = "/api/2.0/mlflow/users/current"
_PERMISSIONS = "/api/3.0/mlflow/users/current/permissions"


@dataclass(frozen=True)
class Access:
    """What an MLflow server said."""

    version: str
    user: str | None
    """The account; `None` where the server has none, and everybody may do everything."""
    writes: tuple[str, ...]
    """Experiments of ILA in which it may cache steps."""
    publishes: tuple[str, ...]
    """Registered models under which it may publish rankings."""
    rankings: int
    """Registered models of rankings that it sees."""


def access(uri: str) -> Access:
    """Ask a server.

    Raises:
        ConnectionError: it does not answer, or not to this account.
    """
    client = open_client(uri)
    with translate_mlflow_errors(uri):
        experiments = client.search_experiments(filter_string=f"name LIKE '{experiment_name('%')}'")
        names = {e.experiment_id: e.name for e in experiments}
        models = [m.name for m in client.search_registered_models(f"name LIKE '{PREFIX}%'", 1000)]
    version = _get(uri, "/version").text.strip()
    answer = _get(uri, _CURRENT)
    if answer.status_code != 200:
        return Access(version, None, tuple(names.values()), tuple(models), len(models))
    user = answer.json()["user"]
    if user["is_admin"]:
        writes, publishes = set(names), set(models)
    else:
        granted = _get(uri, _PERMISSIONS).json()["permissions"]
        writes = _held(granted, "experiment", set(names))
        publishes = _held(granted, "registered_model", set(models))
    return Access(
        version,
        user["username"],
        tuple(sorted(names[number] for number in writes)),
        tuple(sorted(publishes)),
        len(models),
    )


def _held(granted: list[dict[str, Any]], kind: str, of: set[str]) -> set[str]:
    """Those of `of` that may be written, by name or by the wildcard."""
    patterns = {
        g["resource_pattern"]
        for g in granted
        if g["resource_type"] == kind and g["permission"] in ("EDIT", "MANAGE")
    }
    return of if "*" in patterns else of & patterns


def _get(uri: str, path: str) -> Any:
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    return http_request(get_default_host_creds(uri), path, "GET", raise_on_status=False)
