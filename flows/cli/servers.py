"""The commands of `ila servers`; nothing heavy at module level."""

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
        typer.Option(metavar="TEAM:PORT", help="A Prefect server; repeatable. Default: main:4200."),
    ] = None,
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow.")] = 5000,
    postgres_port: Annotated[int, typer.Option(help="Port of PostgreSQL.")] = 5433,
    gpus: Gpus = 1,
    deployments: Annotated[
        Path | None, typer.Option(help="A folder with prefect.yaml and work-pools/, to deploy.")
    ] = None,
) -> None:
    """Start the servers, wait until they answer, set them up, and say what to export.

    Their data is in ILA_SERVERS_HOME, by default ILA_HOME/servers, with passwords in files that
    only you can read. Servers that run already are left alone.
    """
    from flows.servers.up import up

    up(
        prefect or ["main:4200"], mlflow_port=mlflow_port, postgres_port=postgres_port, gpus=gpus,
        deployments=deployments,
    )  # fmt: skip


@servers_app.command("down")
def servers_down() -> None:
    """End the servers that `up` started, and nothing else; their data stays."""
    from flows.servers.up import down

    down()


@servers_app.command("deploy")
def servers_deploy(
    folder: Annotated[Path, typer.Argument(help="Folder with prefect.yaml and work-pools/.")],
    kind: Annotated[str, typer.Option(help="Workers: process, docker or kubernetes.")] = "process",
    gpus: Gpus = 1,
) -> None:
    """Create the limit, the pool and the deployments on the Prefect server of PREFECT_API_URL."""
    from flows.servers.pool import run_deploy

    run_deploy(folder, kind=kind, gpus=gpus)


@servers_app.command("reserve")
def servers_reserve(
    base_models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="Default: all shipped ones.")
    ] = None,
) -> None:
    """Create, as MLflow's administrator, experiments and rankings' names, with permissions."""
    from flows.servers.accounts import reserve

    reserve(base_models or [])


@servers_app.command("account")
def servers_account(
    user: Annotated[str, typer.Argument(metavar="NAME")],
    role: Annotated[str, typer.Option(help="reader, member or publisher.")],
    out: Annotated[Path | None, typer.Option(help="Password file; default NAME.env.")] = None,
) -> None:
    """Create, as MLflow's administrator, an account, or change the role of an existing one."""
    from flows.servers.accounts import add

    add(user, role, out=out)
