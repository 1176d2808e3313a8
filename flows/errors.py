"""Exit codes: 0 done, 1 failed, 2 wrong input, 3 a check said no, 4 undecided."""

from __future__ import annotations

import errno

from ila_core.errors import UserError


def explain(error: Exception) -> tuple[int, str]:
    """The exit code and the one message an expected error ends with."""
    if isinstance(error, UserError):
        return 2, str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        where = f" while writing {error.filename}" if error.filename else ""
        return 1, (
            f"the disk is full{where}. Nothing half-written counts as a result: free some space "
            "and run the same command again; finished steps are kept."
        )
    if isinstance(error, OSError) and error.filename:
        return 1, f"{error.filename}: {error.strerror}"
    return 1, str(error)
