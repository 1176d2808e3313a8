"""`ila` in a process forked from one that has the heavy libraries: tests run it often.

`import mlflow` alone is two thirds of the time of `ila rankings list` (docs/LOG.md).
A test of what a command imports, or of one that is killed, starts a whole interpreter instead.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

HANG = 1800
"""Seconds that no command of the tests takes, whatever else the machine does."""

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(
    [
        "mlflow.store.model_registry.sqlalchemy_store",
        "mlflow.store.tracking.sqlalchemy_store",
        "peft",
        "transformers.models.llama.modeling_llama",
    ]
)


def run(
    module: str, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str],
    out: Path, err: Path,
) -> int:  # fmt: skip
    """`python -m module arguments` with its output in files.

    Returns:
        The exit code, negative where a signal ended it.
    """
    process = _server.Process(target=_main, args=(module, arguments, cwd, environment, out, err))
    process.start()
    process.join(HANG)
    if process.exitcode is None:
        os.killpg(process.pid, signal.SIGKILL)
        raise TimeoutError(f"{module} {' '.join(arguments)} did not end within {HANG} s")
    return process.exitcode


def _main(
    module: str, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str],
    out: Path, err: Path,
) -> None:  # fmt: skip
    os.setsid()
    os.chdir(cwd)
    for path, descriptor in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[:] = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:  # what an interpreter does at its end, and a process of `multiprocessing` does not
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
