"""Who may do what on a shared MLflow: three roles by accounts of its basic authentication."""

import warnings
from collections.abc import Callable, Sequence
from enum import StrEnum

from tasks.tracking.client import experiment_name, open_client, translate_mlflow_errors
from tasks.tracking.ranking_version import PREFIX

_WORKSPACE = "default"  # where MLflow keeps roles while it has no workspaces


class Role(StrEnum):
    """What an account is for. Everybody with an account reads everything."""

    READER = "reader"
    MEMBER = "member"
    PUBLISHER = "publisher"

    @property
    def may(self) -> str:
        """What the role may do, in words."""
        return {
            Role.READER: "finds and pulls, computes nothing",
            Role.MEMBER: "runs and caches steps, publishes nothing",
            Role.PUBLISHER: "publishes rankings, moves aliases, removes runs",
        }[self]

    @property
    def grants(self) -> dict[str, str]:
        """MLflow's permissions beyond reading, by what they are on."""
        return {
            Role.READER: {},
            Role.MEMBER: {"experiment": "EDIT"},
            Role.PUBLISHER: {"experiment": "MANAGE", "registered_model": "MANAGE"},
        }[self]


class Accounts:
    """The accounts and roles of an MLflow server, to whom the environment names an administrator.

    Args:
        uri: of an MLflow server with basic authentication.

    Raises:
        ConnectionError: it cannot be reached, or does not take this account for an administrator.
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
        """Make the experiments and names of rankings that the roles' grants are about.

        A name that exists is the publisher's; one that does not is of whoever makes it first.
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
        """Make an account, or give one that exists its role; its password stays as it is.

        Returns:
            Whether it was made.
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
    """The registered model that a base model's rankings are published under."""
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
