"""The commands of `ila servers`; nothing heavy at module level."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

servers_app = typer.Typer(
    no_args_is_help=True, help="PostgreSQL, MLflow and Prefect as processes, for several teams."
)

Gpus = Annotated[int, typer.Option(min=1, help="Steps that may train at once: the limit `gpu`.")]


@servers_app.command("up")
def servers_up(
    prefect: Annotated[
        list[str] | None,
        typer.Option(metavar="TEAM:PORT", help="A Prefect server; repeatable. main:4200."),
    ] = None,
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow.")] = 5000,
    postgres_port: Annotated[int, typer.Option(help="Port of PostgreSQL.")] = 5433,
    gpus: Gpus = 1,
    deployments: Annotated[
        Path | None, typer.Option(help="A folder with prefect.yaml and work-pools/, to deploy.")
    ] = None,
) -> None:
    """Start them, wait until they answer, set them up, and say what to export. Again, it says so.

    What they keep is in ILA_SERVERS_HOME, by default ILA_HOME/servers; passwords are in files there
    that only you can read.
    """
    from flows.servers.up import up

    up(
        prefect or ["main:4200"], mlflow_port=mlflow_port, postgres_port=postgres_port, gpus=gpus,
        deployments=deployments,
    )  # fmt: skip


@servers_app.command("down")
def servers_down() -> None:
    """End the servers that `up` started, and nothing else; what they keep stays."""
    from flows.servers.up import down

    down()
