"""MLflow's client: opening it, and translating its errors."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ila_core.errors import first_line
from ila_core.locks import check_locks, exclusive, locked_database

if TYPE_CHECKING:
    from mlflow import MlflowClient


def open_client(uri: str) -> MlflowClient:
    """Open MLflow's client for `uri`; it gives up within seconds when no server answers.

    Raises:
        ConnectionError: when the tracking server cannot be reached.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # the default means minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # It tells how it makes its tables, and prints a traceback of each error that it also raises.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    from mlflow import MlflowClient

    try:
        with translate_mlflow_errors(uri), _alone(uri):
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_experiments(max_results=1)
    except ImportError as error:
        raise ConnectionError(
            f"MLflow at {shown(uri)} needs the package {error.name}, which is not installed"
        ) from error
    return client


def all_pages(search: Callable[..., Any]) -> list[Any]:
    """Collect all pages of a search of MLflow's client."""
    from mlflow.utils import get_results_from_paginated_fn

    def page(most: int, token: str | None) -> Any:
        return search(max_results=most, page_token=token)

    return list(get_results_from_paginated_fn(page, 1000))


@contextmanager
def translate_mlflow_errors(uri: str) -> Iterator[None]:
    """Translate MLflow's errors inside the block to errors with one message.

    Raises:
        ConnectionError: when MLflow cannot be reached, or answers with an error.
        PermissionError: when it refuses this account, or the account lacks a permission.
        LockError: when its SQLite file cannot be locked.
    """
    from mlflow.exceptions import MlflowException
    from requests import RequestException  # payloads are moved without MLflow's own errors

    try:
        yield
    except (MlflowException, RequestException, *_raised_by_sqlalchemy()) as error:
        said = first_line(error)
        path = sqlite_path(uri)
        if path is not None and "database is locked" in said:
            raise locked_database(path, error) from error
        if refusal := _refusal(said):
            raise PermissionError(f"MLflow at {shown(uri)} {refusal}") from error
        raise ConnectionError(
            f"MLflow at {shown(uri)} cannot be used: {said[:300]}\n"
            "Start it, or correct MLFLOW_TRACKING_URI; unset, ILA keeps its own store in ILA_HOME."
        ) from error


def _raised_by_sqlalchemy() -> tuple[type[Exception], ...]:
    """SQLAlchemy's errors, which MLflow passes on while it makes its tables."""
    loaded = sys.modules.get("sqlalchemy.exc")
    return (loaded.SQLAlchemyError,) if loaded else ()


def _refusal(said: str) -> str | None:
    """Return advice when MLflow refused the account or lacks a permission, else `None`."""
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if "error code 401" in said and user:
        return (
            f"does not take the password of account {user!r}: correct MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD (no account by that name looks the same)"
        )
    if "error code 401" in said:
        return (
            "asks who you are: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to an "
            "account, which its administrator makes with `ila servers account`"
        )
    if "error code 403" in said:
        return (
            f"does not let account {user!r} do that ({said[:200]}). Computing needs role member, "
            "publishing role publisher: docs/TEAMS.md; `ila doctor` says what yours may"
        )
    return None


def shown(uri: str) -> str:
    """Return the address without user name and password."""
    scheme, mark, rest = uri.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Lock the creation of an SQLite store's tables against other processes on this machine."""
    path = sqlite_path(uri)
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(Path(f"{path}.lock"), "making MLflow's tables"):
        check_locks(path.parent)
        yield


def experiment_name(base_model: str) -> str:
    """Return the experiment's name for a base model; `%` is MLflow's wildcard for all."""
    return f"ila/{base_model}"


def sqlite_path(uri: str) -> Path | None:
    """Return the file of an SQLite URI as SQLAlchemy reads it: four slashes are absolute.

    >>> sqlite_path("sqlite:////home/me/mlflow.db"), sqlite_path("http://127.0.0.1:5000")
    (PosixPath('/home/me/mlflow.db'), None)
    """
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]).absolute()
