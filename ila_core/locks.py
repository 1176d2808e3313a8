"""Locks of files: who else holds one, and file systems that have none, are named within seconds.

    with exclusive(home / "lock.lock", "what names resolve to"):
        ...

SQLite locks its databases by another system call, which a file system may lack as well.
"""

import errno
import logging
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

log = logging.getLogger("ila")

SECONDS = 60.0
"""How long a lock is waited for, which others hold for moments."""
_SAY_AFTER = 2.0
_NO_LOCKS = (
    "{folder}: its file system has no locks that work ({why}), and two processes would destroy "
    "each other's files. Put it on a disk of this machine: ILA_HOME, ILA_SERVERS_HOME or "
    "MLFLOW_TRACKING_URI says where it is; or mount it with locks (NFS without `nolock`, Lustre "
    "with `flock`)"
)


class LockError(OSError):
    """A lock that could not be had, by whose fault and what to do."""


@contextmanager
def exclusive(path: Path, what: str, *, seconds: float | None = None) -> Iterator[None]:
    """Hold the lock file `path` inside the block.

    Args:
        path: a file that exists for its lock alone; its folder exists.
        what: what the lock guards, for the message.
        seconds: how long to wait for another process, by default `SECONDS`; 0 asks once.

    Raises:
        LockError: somebody else holds it for so long, or the file system has no locks.
    """
    seconds = SECONDS if seconds is None else seconds
    lock = FileLock(path, fallback_to_soft=False)
    try:
        _acquire(lock, path, what, seconds)
    except Timeout as error:
        raise LockError(
            f"{what}: {path} is locked by {_holder(path)}{f' for {seconds:g} s' * (seconds > 0)}; "
            "wait for it or end it, then run the same command again"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, path: Path, what: str, seconds: float) -> None:
    try:
        try:
            lock.acquire(timeout=min(seconds, _SAY_AFTER))
            return
        except Timeout:
            _try_lock(path.parent)  # nobody can hold a new file's lock
        if seconds > _SAY_AFTER:
            log.warning("%s: waiting for %s, locked by %s", what, path, _holder(path))
        lock.acquire(timeout=max(0.0, seconds - _SAY_AFTER))
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        raise _no_locks(path.parent, error) from error


def check_locks(folder: Path) -> None:
    """Try both kinds of locks on new files in `folder`.

    Raises:
        LockError: its file system lacks one of them.
    """
    _try_lock(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".locks-") as new:
        try:
            with closing(sqlite3.connect(Path(new) / "try.db", timeout=0)) as connection:
                connection.execute("PRAGMA synchronous = OFF")
                connection.execute("CREATE TABLE tried (it)")
        except sqlite3.OperationalError as error:
            if not is_lock_error(error):
                raise
            raise _no_locks(folder, error) from error


def is_lock_error(error: sqlite3.Error) -> bool:
    """Whether SQLite could not lock its file, and nothing else is wrong with it."""
    names = ("SQLITE_BUSY", "SQLITE_PROTOCOL", "SQLITE_IOERR_LOCK", "SQLITE_IOERR_RDLOCK")
    return error.sqlite_errorname.startswith(names)


def locked_database(path: Path, error: BaseException) -> LockError:
    """Say of a database that SQLite cannot lock whose fault it is."""
    try:
        check_locks(path.parent)
    except LockError as no_locks:
        return no_locks
    return LockError(
        f"{path} is locked by {_holder(path)} ({error}); wait for it or end it, then run the same "
        "command again"
    )


def _try_lock(folder: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".lock-") as new:
        try:
            with FileLock(new.name, timeout=0, fallback_to_soft=False):
                pass
        except (Timeout, OSError) as error:
            raise _no_locks(folder, error) from error


def _no_locks(folder: Path, error: BaseException) -> LockError:
    why = "a new file counts as locked" if isinstance(error, Timeout) else str(error)
    return LockError(_NO_LOCKS.format(folder=folder, why=why))


def _holder(path: Path) -> str:
    """Name the processes of this machine that hold a lock of the file, which Linux lists."""
    found = {}
    with suppress(OSError):
        held = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        inode = str(path.stat().st_ino)
        for pid in {int(fields[4]) for fields in held if fields[5].rpartition(":")[2] == inode}:
            with suppress(psutil.Error):
                found[pid] = " ".join(psutil.Process(pid).cmdline())[-80:]
    named = ", ".join(f"process {pid} ({command})" for pid, command in sorted(found.items()))
    return named or "another process, perhaps of another machine"
