"""A PostgreSQL cluster from the system's packages, reachable from this machine only."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from flows.servers.process import LOOPBACK, Server, as_account, inherited
from flows.servers.secrets import secret, write_private
from ila_core.errors import CheckError, UserError

USER = "ila"
_DEBIAN = Path("/usr/lib/postgresql")


class Postgres:
    """Manages a cluster in `folder/postgres` and its databases.

    PostgreSQL refuses to run as root, so root starts it as another account. Its clients read the
    password from a file (`PGPASSFILE`), so that no address and no process list shows it.

    Args:
        folder: the folder of all servers.
        port: port on the loopback interface.
        account: user account when root starts it; Debian's package creates `postgres`.

    Raises:
        UserError: when PostgreSQL is not installed, or the account cannot read the folder.
    """

    def __init__(self, folder: Path, port: int, account: str = "postgres") -> None:
        self.folder, self.port = folder, port
        self.account = account if os.geteuid() == 0 else None
        self.data = folder / "postgres"
        self._passwords = folder / "secrets" / "pgpass"
        if self.account is not None:
            self._check_account()
        if not (self.data / "PG_VERSION").exists():
            self._make()
        password = secret(folder, "postgres")
        write_private(self._passwords, f"{LOOPBACK}:{port}:*:{USER}:{password}\n")

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment variables that its clients need."""
        return {"PGPASSFILE": str(self._passwords)}

    def address(self, database: str, driver: str = "psycopg2") -> str:
        """Return a database's address, without a password."""
        return f"postgresql+{driver}://{USER}@{LOOPBACK}:{self.port}/{database}"

    def server(self) -> Server:
        """Describe the process; it listens on TCP only, as a Unix socket's path may be too long."""
        settings = {"listen_addresses": LOOPBACK, "unix_socket_directories": ""}
        options = [word for k, v in settings.items() for word in ("-c", f"{k}={v}")]
        command = [_program("postgres"), "-D", str(self.data), "-p", str(self.port), *options]
        fast = signal.SIGINT  # SIGTERM waits until every client has gone
        return Server(
            "postgres", self.port, command, self._answers, {}, account=self.account, ends_on=fast
        )

    def create(self, databases: Iterable[str]) -> None:
        """Create the databases that do not exist yet."""
        known = self._client("psql", "-d", "postgres", "-tAc", "SELECT datname FROM pg_database")
        for name in databases:
            if name not in known.split():
                self._client("createdb", name)

    def _answers(self) -> bool:
        words = [_program("pg_isready"), "-q", "-h", LOOPBACK, "-p", str(self.port)]
        return subprocess.run(words, check=False).returncode == 0

    def _client(self, program: str, *words: str) -> str:
        where = ["-h", LOOPBACK, "-p", str(self.port), "-U", USER, "-w"]
        return _run([_program(program), *where, *words], inherited() | self.environment)

    def _make(self) -> None:
        """Run `initdb`, with the password in a temporary file."""
        self.data.mkdir(mode=0o700, exist_ok=True)
        handed = self.data.with_name("postgres-password")
        write_private(handed, secret(self.folder, "postgres"))
        if self.account is not None:
            for path in (self.data, handed):
                shutil.chown(path, self.account, self.account)
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", f"--username={USER}"]
        try:
            _run(
                [_program("initdb"), *options, f"--pwfile={handed}", "-D", str(self.data)],
                inherited(),
                self.account,
            )
        finally:
            handed.unlink()

    def _check_account(self) -> None:
        self.folder.chmod(0o711)  # what is secret in it is closed file by file
        try:
            found = subprocess.run(
                ["test", "-x", str(self.folder)], check=False, cwd="/", **as_account(self.account)
            )
        except LookupError as error:
            raise UserError(
                f"PostgreSQL does not run as root, and there is no account {self.account!r} to run "
                "it as; Debian's package `postgresql` makes it"
            ) from error
        if found.returncode != 0:
            raise UserError(
                f"PostgreSQL runs as {self.account!r}, who cannot enter {self.folder}; set "
                "ILA_SERVERS_HOME to a folder that others may enter, such as /var/lib/ila"
            )


def _program(name: str) -> str:
    """Find a program of PostgreSQL; Debian's server programs are not on PATH."""
    newest_first = sorted(_DEBIAN.glob("*/bin"), key=lambda x: -float(x.parent.name))
    path = os.pathsep.join([*map(str, newest_first), os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    if found is None:
        raise UserError(
            f"PostgreSQL's {name} is not installed: `apt install postgresql` (Debian, Ubuntu); "
            "without it, deployments/compose.yaml brings one, and `ila ui` needs none"
        )
    return found


def _run(command: Sequence[str], environment: dict[str, str], account: str | None = None) -> str:
    done = subprocess.run(
        command, env=environment, cwd="/", text=True, capture_output=True, check=False,
        **as_account(account),
    )  # fmt: skip
    if done.returncode != 0:
        raise CheckError(f"{Path(command[0]).name} failed: {done.stderr.strip()[-500:]}")
    return str(done.stdout)
