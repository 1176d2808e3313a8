"""The step that a worker runs before it loads a deployment's flow: `pull:` in prefect.yaml."""

from importlib import metadata

from ila_core.errors import CheckError


def require(version: str) -> None:
    """Refuse a run whose deployment was made by another version of ILA.

    The parameters of one version may be unknown to another, or have another meaning there.
    """
    installed = metadata.version("ila")
    if installed != version:
        raise CheckError(
            f"this deployment is of ILA {version} and the worker has {installed}: install ILA "
            f"{version} where the worker runs, or deploy again from there (`ila servers deploy`)"
        )
