"""Exit codes: 0 done, 1 failed, 2 wrong input, 3 a check said no, 4 undecided."""

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from ila_core.config import RuntimeConfig
from ila_core.errors import CheckError, UserError, first_line

_WRONG_PATHS = (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError)
"""A path that somebody gave is wrong input; for one in ILA_HOME the world is to blame."""


def explain(error: Exception) -> tuple[int, str] | None:
    """Return the exit code and message of an expected error; `None` means a bug of ours."""
    if isinstance(error, UserError):
        return 2, str(error)
    home, led_here = RuntimeConfig.from_env().home, list(chain(error))
    # Prefect raises a plain RuntimeError where it finds no server, or where its own does not start.
    of_prefect = _is_prefects(error) or (
        type(error) is RuntimeError
        and ("Prefect" in str(error) or any(map(_is_prefects, led_here)))
    )
    # Its server says no more than that something failed; so look.
    if any(map(_says_full, led_here)) or (of_prefect and _is_full(home)):
        return 1, (
            f"the disk is full ({home}). Nothing half-written counts as a result: free some space "
            "and run the same command again; finished steps are kept."
        )
    if isinstance(error, OSError) and error.filename:
        ours = Path(str(error.filename)).absolute().is_relative_to(home)
        wrong_input = isinstance(error, _WRONG_PATHS) and not ours
        return 2 if wrong_input else 1, f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError | CheckError):
        return 1, str(error)
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
        return 1, (
            f"out of memory: {first_line(error)}\nFinished steps are kept. Lower ILA_MICRO_BATCH "
            "(conversations per forward pass; it moves the result by rounding only), then run the "
            "same command again."
        )
    if of_prefect:
        return 1, (
            f"Prefect failed: {first_line(error)}\nWhat had finished is cached: look at its server "
            "(PREFECT_API_URL; `ila doctor`), then run the same command again."
        )
    return None


def _is_prefects(error: BaseException) -> bool:
    # Errors of httpx are Prefect's too: `ila_core.hub` explains its own.
    return type(error).__module__.partition(".")[0] in ("prefect", "httpx")


def _says_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return True
    # How SQLite and safetensors, which raise no OSError, say it.
    return any(s in str(error) for s in ("database or disk is full", "No space left on device"))


def _is_full(home: Path) -> bool:
    return home.exists() and shutil.disk_usage(home).free < 2**20


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
