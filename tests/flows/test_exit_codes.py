"""What an error that reaches the command line ends with: a code and a message, or a traceback."""

import errno

import pytest
import torch

from flows.exit_codes import explain
from ila_core.config import RuntimeConfig
from ila_core.errors import CheckError, UserError

HOME = RuntimeConfig.from_env().home


def led_to(cause, error):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("give a name"), 2, "give a name"),
        (CheckError("frozen, but changed"), 1, "frozen, but changed"),
        (ConnectionError("MLflow at x cannot be used"), 1, "MLflow at x"),
        (PermissionError(errno.EACCES, "Permission denied", "lock.json"), 1, "lock.json: Perm"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/x.json"), 2, "/x.json: No"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "x/y"), 2, "x/y: Not a directory"),
        (FileNotFoundError(errno.ENOENT, "No such file", f"{HOME}/lock.json"), 1, "lock.json: No"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "the disk is full"),
        (led_to(OSError("database or disk is full"), ValueError("x")), 1, "the disk is full"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried"), 1, "Lower ILA_MICRO_BATCH"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_expected_error_is_a_code_and_a_message(error, code, said):
    found, message = explain(error)
    assert found == code
    assert said in message


@pytest.mark.parametrize("error", [AssertionError("ours"), KeyError("x"), RuntimeError("torch")])
def test_a_bug_of_ours_keeps_its_traceback(error):
    assert explain(error) is None
