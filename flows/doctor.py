"""What is installed, reachable and usable here, and what to do about the rest."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from urllib.error import URLError
from urllib.request import urlopen

from ila_core.config import RuntimeConfig
from ila_core.errors import UserError, first_line

_REQUIRED = ("torch", "transformers", "peft", "prefect", "mlflow")
_OPTIONAL = {"bitsandbytes": "quant", "lm_eval": "eval"}


@dataclass(frozen=True)
class Check:
    """One line of the examination."""

    name: str
    state: str
    """ok, missing (not needed for everything) or failed."""
    found: str
    advice: str = ""


def examine() -> list[Check]:
    """All checks, each independent of the others' outcome."""
    runtime = RuntimeConfig.from_env()
    checks = [_python(), *map(_package, _REQUIRED), *map(_package, _OPTIONAL)]
    here = (_device(runtime), _home(runtime), _checkpoints(runtime))
    return [*checks, *here, _mlflow(runtime), _prefect(), _hub()]


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    return Check("python", "ok" if sys.version_info >= (3, 11) else "failed", found)


def _package(name: str) -> Check:
    try:
        return Check(name, "ok", version(name))
    except PackageNotFoundError:
        if name in _OPTIONAL:
            extra = _OPTIONAL[name]
            return Check(name, "missing", "not installed", f"pip install 'ila[{extra}]'")
        return Check(name, "failed", "not installed", "pip install ila, or `make demo`")


def _device(runtime: RuntimeConfig) -> Check:
    if importlib.util.find_spec("torch") is None:
        return Check("device", "failed", "no torch")
    from ila_core.loading import resolve_device

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
    writable = os.access(runtime.home, os.W_OK)
    found = f"{runtime.home}, {free_gib:.0f} GiB free"
    return Check(
        "ILA_HOME", "ok" if writable else "failed", found, "" if writable else "not writable"
    )


def _checkpoints(runtime: RuntimeConfig) -> Check:
    """Those of finished steps are gone; nobody but a person knows which others are still wanted."""
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
        "a name begins with its step's key, as `ila plan` prints it; the same command goes on from "
        f"there, and of one that nobody will give again the folder in {runtime.checkpoints} can go",
    )


def _mlflow(runtime: RuntimeConfig) -> Check:
    from tasks.tracking import open_client, shown

    def connect() -> str:
        open_client(runtime.tracking_uri)
        return shown(runtime.tracking_uri)

    return _reach("MLflow", connect)


def _prefect() -> Check:
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return Check("Prefect", "ok", "temporary server, started by each run that computes")
    return _reach("Prefect", lambda: _get(f"{url.rstrip('/')}/health", url))


def _hub() -> Check:
    url = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    check = _reach("model hub", lambda: _get(url, url))
    if check.state == "ok":
        return check
    advice = (
        "only local models and data sets can be used; profiles with local paths are not affected"
    )
    return Check("model hub", "missing", check.found, advice)


def _get(url: str, shown: str) -> str:
    with urlopen(url, timeout=5):
        return shown.rpartition("@")[2]


def _reach(name: str, connect: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", connect())
    except (UserError, URLError, OSError, ValueError) as error:
        return Check(name, "failed", "not reachable", first_line(error))
