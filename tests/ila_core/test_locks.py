"""Locks that never come, or that the file system lacks, are named; nobody waits in silence."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from benchmarks import counts
from flows.exit_codes import explain
from flows.servers.up import down
from ila_core import locks
from ila_core.resolve import Lock
from ila_core.train.checkpoints import CheckpointFolder
from tasks.cache import sqlite_lookup
from tasks.cache.sqlite_lookup import SqliteLookup
from tasks.tracking.client import open_client
from tests.conftest import ROOT, Ila

_HOLD = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held() -> Iterator[Callable[[Path], int]]:
    """Holds a lock file in another process, whose pid it returns."""
    holders: list[subprocess.Popen[str]] = []

    def hold(path: Path) -> int:
        command = [sys.executable, "-c", _HOLD, str(path)]
        pipe = subprocess.PIPE
        holders.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
        out = holders[-1].stdout
        assert out is not None and out.readline() == "held\n"
        return holders[-1].pid

    yield hold
    for holder in holders:
        holder.communicate()


def _train(home: Path) -> None:
    with CheckpointFolder(home, 0.0).held("identity"):
        pass


USERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "names": ("lock.lock", lambda home: Lock(home, online=False).keep_rows("key", {})),
    "store": ("mlflow.db.lock", lambda home: open_client(f"sqlite:///{home / 'mlflow.db'}")),
    "checkpoints": (".lock", _train),
    "servers": ("servers/lock", lambda home: down()),
}


@pytest.mark.parametrize("user", USERS)
def test_who_holds_a_lock_is_named(
    user: str,
    held: Callable[[Path], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, use = USERS[user]
    monkeypatch.setenv("ILA_HOME", str(tmp_path))
    monkeypatch.delenv("ILA_SERVERS_HOME", raising=False)
    monkeypatch.setattr(locks, "_SAY_AFTER", 0.05)
    monkeypatch.setattr(locks, "SECONDS", 0.1)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    pid = held(path)
    with pytest.raises(locks.LockError, match="wait for it or end it") as caught:
        use(tmp_path)
    assert f"{path} is locked by process {pid} (" in str(caught.value)
    assert explain(caught.value) == (1, str(caught.value))


def test_only_one_module_knows_how_to_lock() -> None:
    files = [file for top in counts.PRODUCT for file in (ROOT / top).rglob("*.py")]
    locking = [f.name for f in files if "filelock" in (text := f.read_text()) or "flock(" in text]
    assert locking == ["locks.py"]


@pytest.mark.parametrize("number", ["ENOSYS", "ENOLCK", "EAGAIN"])
def test_a_file_system_without_locks_is_named(
    number: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    USERS["names"][1](tmp_path)  # a lock file is there from a time when locks worked

    def refuse(*_: object) -> None:
        code = getattr(errno, number)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(locks, "_SAY_AFTER", 0.05)
    for use in (locks.check_locks, *(use for name, (_, use) in USERS.items() if name != "servers")):
        with pytest.raises(locks.LockError, match="no locks that work") as caught:
            use(tmp_path)
        assert str(caught.value).startswith(f"{tmp_path}: ")


def test_the_doctor_tries_both_kinds_of_locks(ila: Ila, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {check["name"]: check for check in ila.json("doctor")}
    assert found["ILA_HOME"]["state"] == "ok" and "locks work" in found["ILA_HOME"]["found"]
    connect = sqlite3.connect
    others = []

    def locked(path: Any, **how: Any) -> sqlite3.Connection:
        if Path(path).name == "try.db":  # the database of the trial, new in its folder
            others.append(connect(path))
            others[-1].execute("BEGIN EXCLUSIVE")
        return connect(path, **how)

    monkeypatch.setattr(sqlite3, "connect", locked)
    code, out, _ = ila.ended("doctor", "--json")
    for other in others:
        other.close()
    assert code == 1 and others
    assert '"ILA_HOME"' in out and "no locks that work (database is locked)" in out


def test_a_database_that_somebody_writes_is_no_damaged_file(
    empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_lookup, "_BUSY_SECONDS", 0.05)
    path = empty_store / "mlflow.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(locks.LockError, match=rf"mlflow.db is locked by process {os.getpid()}"):
            SqliteLookup(path, "%").finished("key")
    assert SqliteLookup(path, "%").finished("key") == []
