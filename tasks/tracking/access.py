"""Which account and permissions the caller has on an MLflow server."""

from dataclasses import dataclass
from typing import Any

from tasks.tracking.client import experiment_name, open_client, translate_mlflow_errors
from tasks.tracking.ranking_version import PREFIX

_CURRENT = "/api/2.0/mlflow/users/current"
_PERMISSIONS = "/api/3.0/mlflow/users/current/permissions"


@dataclass(frozen=True)
class Access:
    """The version of an MLflow server, and the caller's account and permissions there."""

    version: str
    user: str | None
    """Account name; `None` when the server has no accounts and permits everything."""
    writes: tuple[str, ...]
    """ILA's experiments in which the account may cache steps."""
    publishes: tuple[str, ...]
    """Registered models under which the account may publish rankings."""
    rankings: int
    """Number of registered models of rankings that the account can read."""


def access(uri: str) -> Access:
    """Ask a server for its version and the caller's permissions.

    Raises:
        ConnectionError: when it does not answer.
        PermissionError: when it refuses this account.
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


def _held(granted: list[dict[str, str]], kind: str, of: set[str]) -> set[str]:
    """Return the names in `of` with write permission, by name or by the wildcard."""
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
