"""What a worker does before it loads the flow of a deployment: `pull:` of prefect.yaml."""

from importlib import metadata

from ila_core.errors import CheckError


def require(version: str) -> None:
    """Refuse a run whose deployment was made by another version of ILA, before any of it begins.

    A form made by one version may have fields that another does not know, or means otherwise.

    Args:
        version: of the ILA that made the deployment.
    """
    installed = metadata.version("ila")
    if installed != version:
        raise CheckError(
            f"this deployment is of ILA {version} and the worker has {installed}: install ILA "
            f"{version} where the worker runs, or deploy again from there (`ila servers deploy`)"
        )
