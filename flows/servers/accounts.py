"""`ila servers reserve` and `account`: permissions and accounts on an MLflow server."""

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import typer

from flows.servers.secrets import write_variables
from ila_core.config import RuntimeConfig
from ila_core.config.load import shipped
from ila_core.errors import UserError, unknown_name
from tasks.tracking.accounts import Accounts, Role


def reserve(base_models: Sequence[str]) -> None:
    """Create experiments and registered models, by default of all shipped base models."""
    models = base_models or list(shipped("models"))
    _accounts().reserve(models)
    typer.echo(f"members write, and publishers publish, for {', '.join(models)}")


def add(user: str, role: str, *, out: Path | None) -> None:
    """Create an account, or change the role of an existing one.

    Its password is ILA_ACCOUNT_PASSWORD, or a random one that is written to a file.
    """
    if role not in set(Role):
        raise unknown_name("role", role, Role)
    given = os.environ.get("ILA_ACCOUNT_PASSWORD")
    file = out or Path(f"{user}.env")
    if given is None and file.exists():
        raise UserError(f"{file} is there already; give --out another file for {user}'s password")
    password = given or secrets.token_urlsafe(24)
    made = _accounts().add(user, Role(role), password)
    typer.echo(f"{user}: {role}, {Role(role).may}")
    if made and given is None:
        write_variables(file, login(user, password))
        typer.echo(f"hand over {file}, which only you can read: it has the password")


def login(user: str, password: str) -> dict[str, str]:
    """Return the environment variables from which MLflow's client reads an account."""
    return {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}


def _accounts() -> Accounts:
    uri = RuntimeConfig.from_env().tracking_uri
    if not uri.startswith("http"):
        raise UserError(
            "accounts are an MLflow server's: set MLFLOW_TRACKING_URI to its address, and "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to an administrator of it"
        )
    return Accounts(uri)
