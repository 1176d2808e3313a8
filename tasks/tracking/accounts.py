"""Accounts of a shared MLflow server (basic authentication) and their three roles."""

import warnings
from collections.abc import Callable, Sequence
from enum import StrEnum

from tasks.tracking.client import experiment_name, open_client, translate_mlflow_errors
from tasks.tracking.ranking_version import PREFIX

_WORKSPACE = "default"  # where MLflow keeps roles while it has no workspaces


class Role(StrEnum):
    """The role of an account; every account may read everything."""

    READER = "reader"
    MEMBER = "member"
    PUBLISHER = "publisher"

    @property
    def may(self) -> str:
        """Description of what the role may do."""
        return {
            Role.READER: "finds and pulls, computes nothing",
            Role.MEMBER: "runs and caches steps, publishes nothing",
            Role.PUBLISHER: "publishes rankings, moves aliases, removes runs",
        }[self]

    @property
    def grants(self) -> dict[str, str]:
        """MLflow permissions beyond reading, by type of resource."""
        return {
            Role.READER: {},
            Role.MEMBER: {"experiment": "EDIT"},
            Role.PUBLISHER: {"experiment": "MANAGE", "registered_model": "MANAGE"},
        }[self]


class Accounts:
    """Manages accounts and roles, as the administrator that the environment names.

    Raises:
        ConnectionError: when the server cannot be reached.
        PermissionError: when it refuses this account, or the account is no administrator.
    """

    def __init__(self, uri: str) -> None:
        with warnings.catch_warnings():  # of the server that its client's package brings along
            warnings.simplefilter("ignore")
            from mlflow.server.auth.client import AuthServiceClient

        self._uri = uri
        self._client = open_client(uri)
        self._accounts = AuthServiceClient(uri)
        with translate_mlflow_errors(uri):
            self._roles = self._made()

    def reserve(self, base_models: Sequence[str]) -> None:
        """Create the experiments and registered models that the roles' permissions refer to.

        Otherwise whoever first creates a registered model would own it.
        """
        with translate_mlflow_errors(self._uri):
            named = {
                *(("experiment", self._experiment(experiment_name(m))) for m in base_models),
                *(("registered_model", self._name(ranking_name(m))) for m in base_models),
            }
            for role, number in self._roles.items():
                listed = self._accounts.list_role_permissions(number)
                held = {(p.resource_type, p.resource_pattern) for p in listed}
                for kind, which in sorted(named - held):
                    if kind in role.grants:
                        self._accounts.add_role_permission(number, kind, which, role.grants[kind])

    def add(self, user: str, role: Role, password: str) -> bool:
        """Create an account, or change the role of an existing one, whose password stays.

        Returns:
            Whether the account was created.
        """
        with translate_mlflow_errors(self._uri):
            if made := not _is_there(self._accounts.get_user, user):
                self._accounts.create_user(user, password)
            held = {r.name: r.id for r in self._accounts.list_user_roles(user)}
            for other in Role:
                if other in held and other != role:
                    self._accounts.unassign_role(user, held[other])
            if role not in held:
                self._accounts.assign_role(user, self._roles[role])
        return made

    def _made(self) -> dict[Role, int]:
        known = {role.name: role.id for role in self._accounts.list_roles(_WORKSPACE)}
        return {
            role: known.get(role) or self._accounts.create_role(_WORKSPACE, role, role.may).id
            for role in Role
        }

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))

    def _name(self, name: str) -> str:
        if not _is_there(self._client.get_registered_model, name):
            self._client.create_registered_model(name)
        return name


def ranking_name(base_model: str) -> str:
    """Return the name of the registered model for a base model's rankings."""
    return f"{PREFIX}{base_model}"


def _is_there(get: Callable[[str], object], name: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        get(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True
