"""`ila servers up` and `down`: one PostgreSQL, one MLflow, a Prefect server for each team."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer

from flows.servers.accounts import login
from flows.servers.pool import count_gpus, deploy
from flows.servers.postgres import Postgres
from flows.servers.process import LOOPBACK, Server, start, stop_all, wait
from flows.servers.programs import ADMIN, mlflow, prefect
from flows.servers.secrets import secret, write_variables
from ila_core.config import RuntimeConfig
from ila_core.config.load import shipped
from ila_core.errors import UserError
from ila_core.locks import exclusive
from tasks.tracking.accounts import Accounts, Role


def up(
    given: Sequence[str],
    *,
    mlflow_port: int,
    postgres_port: int,
    gpus: int,
    deployments: Path | None,
) -> None:
    """Start the servers that do not run yet, set them up, and print how to use them.

    Args:
        given: one `team:port` for each Prefect server.
        gpus: number of steps that may train at once, the limit `gpu` of each Prefect server.
        deployments: a folder to deploy to each Prefect server (`flows.servers.pool.deploy`).
    """
    teams = parse_teams(given)
    tracking = f"http://{LOOPBACK}:{mlflow_port}"
    with _alone() as folder:
        postgres = Postgres(folder, postgres_port)
        _start([postgres.server()], folder)
        postgres.create(["mlflow", "mlflow_accounts", *(f"prefect_{team}" for team in teams)])
        prefects = [prefect(team, folder, port, postgres) for team, port in teams.items()]
        _start([mlflow(folder, mlflow_port, postgres), *prefects], folder)
        files = _accounts(folder, tracking)
    _set_up(teams, gpus, deployments)
    _say_how(tracking, teams, files)


def down() -> None:
    """End the servers that `up` started, and no other process."""
    with _alone() as folder:
        ended = stop_all(folder)
    typer.echo(f"ended: {', '.join(ended)}" if ended else "no server of `ila servers` was running")
    typer.echo(f"their data stays in {folder}")


def parse_teams(given: Sequence[str]) -> dict[str, int]:
    """Parse arguments such as `a:4200` to team and port.

    Raises:
        UserError: when an argument has another form, or a team or port occurs twice.
    """
    teams: dict[str, int] = {}
    for one in given:
        found = re.fullmatch(r"([a-z][a-z0-9_]{0,30}):(\d{2,5})", one)
        if found is None or found[1] in teams or int(found[2]) in teams.values():
            raise UserError(
                f"--prefect {one}: write team:port, such as a:4200, each team and each port once; "
                "a team in small letters and digits"
            )
        teams[found[1]] = int(found[2])
    return teams


@contextmanager
def _alone() -> Iterator[Path]:
    """Lock the servers' folder against other `ila servers` commands, and yield it."""
    given = os.environ.get("ILA_SERVERS_HOME")
    home = Path(given) if given else RuntimeConfig.from_env().home / "servers"
    folder = home.expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / "lock", "`ila servers`"):
        yield folder


def _start(servers: Sequence[Server], folder: Path) -> None:
    """Start all servers at once, since most of the time is spent on imports."""
    started = [start(server, folder) for server in servers]
    for server, now in zip(servers, started, strict=True):
        wait(server, folder)
        how = "started" if now else "runs already"
        typer.echo(f"{server.name:<14} {LOOPBACK}:{server.port:<8} {how}")


def _accounts(folder: Path, tracking: str) -> dict[Role, Path]:
    """Create one account for each role if missing, and return its file of variables."""
    files = {role: folder / "accounts" / f"{role}.env" for role in Role}
    admin = login(ADMIN, secret(folder, ADMIN))
    write_variables(folder / "accounts" / f"{ADMIN}.env", admin)
    os.environ |= admin  # which is where MLflow's client looks
    accounts = Accounts(tracking)
    accounts.reserve(list(shipped("models")))
    for role, file in files.items():
        accounts.add(role, role, secret(folder, role))
        write_variables(file, login(role, secret(folder, role)))
    return files


def _set_up(teams: Mapping[str, int], gpus: int, deployments: Path | None) -> None:
    for team, port in teams.items():
        api = f"http://{LOOPBACK}:{port}/api"
        count_gpus(api, gpus)
        made = f"limit `gpu` of {gpus}"
        if deployments is not None:
            deploy(api, deployments, "process")
            made += f", work pool `gpu`, and what {deployments / 'prefect.yaml'} says"
        typer.echo(f"{f'prefect-{team}':<14} {made}")


def _say_how(tracking: str, teams: Mapping[str, int], files: Mapping[Role, Path]) -> None:
    typer.echo("\nIn every shell that is to use them, one of each:")
    typer.echo(f"  export MLFLOW_TRACKING_URI={tracking}")
    for team, port in teams.items():
        typer.echo(f"  export PREFECT_API_URL=http://{LOOPBACK}:{port}/api   # team {team}")
    for role, file in files.items():
        typer.echo(f"  . {file}   # MLflow's account {role}: {role.may}")
