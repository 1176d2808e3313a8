"""The doctor's checks of this machine, and the list of all checks."""

import contextlib
import importlib.util
import os
import shutil
import sqlite3
import sys
import time
from importlib.metadata import PackageNotFoundError, version

from flows.doctor import servers
from flows.results.check import Check
from ila_core.config import RuntimeConfig
from ila_core.errors import UserError
from ila_core.locks import check_locks
from ila_core.models.loading import resolve_device

_PACKAGES = (
    *("torch", "transformers", "peft", "bitsandbytes", "datasets", "lm_eval"),
    *("prefect", "mlflow"),
)


def examine() -> list[Check]:
    """Run all checks; a failed one does not stop the others."""
    runtime = RuntimeConfig.from_env()
    checks = [_python(), *map(_package, _PACKAGES)]
    here = (_device(runtime), _home(runtime), _checkpoints(runtime))
    return [*checks, *here, *servers.mlflow(runtime), *servers.prefect(), servers.hub()]


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    return Check("python", "ok" if sys.version_info >= (3, 11) else "failed", found)


def _package(name: str) -> Check:
    try:
        return Check(name, "ok", version(name))
    except PackageNotFoundError:
        return Check(name, "failed", "not installed", "pip install ila, or `make demo`")


def _device(runtime: RuntimeConfig) -> Check:
    if importlib.util.find_spec("torch") is None:
        return Check("device", "failed", "no torch")

    try:
        return Check("device", "ok", resolve_device(runtime.device))
    except UserError as error:
        return Check("device", "failed", runtime.device, str(error))


def _home(runtime: RuntimeConfig) -> Check:
    try:
        runtime.home.mkdir(parents=True, exist_ok=True)
        free_gib = shutil.disk_usage(runtime.home).free / 2**30
    except OSError as error:
        return Check("ILA_HOME", "failed", str(runtime.home), str(error))
    found = f"{runtime.home}, {free_gib:.0f} GiB free"
    if not os.access(runtime.home, os.W_OK):
        return Check("ILA_HOME", "failed", found, "not writable")
    try:
        check_locks(runtime.home)
    except (OSError, sqlite3.Error) as error:
        return Check("ILA_HOME", "failed", found, str(error))
    return Check("ILA_HOME", "ok", f"{found}, its locks work")


def _checkpoints(runtime: RuntimeConfig) -> Check:
    """Report leftover checkpoints; ILA removes those of finished steps only."""
    files: dict[str, list[os.stat_result]] = {}
    for file in runtime.checkpoints.glob("*/*/*"):
        with contextlib.suppress(FileNotFoundError):  # a training at work replaces its checkpoints
            files.setdefault(file.parents[1].name, []).append(file.stat())
    if not files:
        return Check("checkpoints", "ok", "none")
    mib = sum(found.st_size for of_folder in files.values() for found in of_folder) / 2**20
    days = {
        name: (time.time() - max(found.st_mtime for found in of_folder)) / 86400
        for name, of_folder in files.items()
    }
    shown = ", ".join(f"{name} ({days[name]:.0f} days old)" for name in sorted(days))
    return Check(
        "checkpoints",
        "ok",
        f"{len(files)} unfinished training{'s' * (len(files) > 1)}, {mib:.0f} MiB: {shown}",
        "a name begins with its step's key, as `ila plan` prints it; the same command resumes from "
        f"there; delete the folders in {runtime.checkpoints} of trainings you will not resume",
    )
