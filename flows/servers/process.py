"""Servers as processes, identified by pid and start time, so that no other one is ever ended."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ila_core.errors import CheckError, UserError

LOOPBACK = "127.0.0.1"

_HEALTHY_WITHIN_SECONDS = 240.0
"""Timeout of a start; the first one creates all tables, perhaps on two busy cores."""
_ENDED_WITHIN_SECONDS = 30.0


@dataclass(frozen=True)
class Server:
    """A server's command and environment, and a check that it answers."""

    name: str
    port: int
    command: Sequence[str]
    answers: Callable[[], bool]
    environment: Mapping[str, str]
    """Variables to add to those of `inherited`."""
    account: str | None = None
    """User account to run it as, if not the caller's."""
    ends_on: signal.Signals = signal.SIGTERM


def start(server: Server, folder: Path) -> bool:
    """Start the server unless it runs; `wait` waits until it answers.

    Args:
        folder: folder of its log, and of the note by which `stop_all` finds it.

    Returns:
        Whether this call started it.

    Raises:
        UserError: when its port is taken, or it runs on another port.
    """
    note = folder / f"{server.name}.json"
    if _running(note) is None:
        _check_free(server)
        process = _spawn(server, folder / f"{server.name}.log")
        about = {"pid": process.pid, "born": process.create_time(), "port": server.port}
        note.write_text(json.dumps(about | {"ends_on": server.ends_on}))
        return True
    if (port := json.loads(note.read_text())["port"]) != server.port:
        raise UserError(
            f"{server.name} runs already, on port {port} and not on {server.port}: leave its port "
            "as it is, or end all servers first with `ila servers down`"
        )
    return False


def wait(server: Server, folder: Path) -> None:
    """Wait until the server answers.

    Raises:
        CheckError: when it ends or does not answer in time; the message has its log's end.
    """
    end = time.monotonic() + _HEALTHY_WITHIN_SECONDS
    while not server.answers():
        gone = _running(folder / f"{server.name}.json") is None
        if gone or time.monotonic() > end:
            what = "ended by itself" if gone else f"gave no answer in {_HEALTHY_WITHIN_SECONDS} s"
            log = folder / f"{server.name}.log"
            last = log.read_text(errors="replace").strip().splitlines()[-5:]
            raise CheckError("\n".join([f"{server.name} {what}; the end of {log}:", *last]))
        time.sleep(0.3)


def stop_all(folder: Path) -> list[str]:
    """End the servers that `start` started in `folder` and nothing else, the youngest first.

    Returns:
        The names of the servers that ran.
    """
    found = {note: _running(note) for note in folder.glob("*.json")}
    running = {note: process for note, process in found.items() if process is not None}
    youngest_first = sorted(running, key=lambda note: -running[note].create_time())
    for note in youngest_first:
        _end(running[note], json.loads(note.read_text())["ends_on"])
    for note in found:
        note.unlink()
    return [note.stem for note in youngest_first]


def inherited() -> dict[str, str]:
    """Return the environment without variables that point MLflow or Prefect to other servers."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PREFECT_", "PG"))}


def as_account(name: str | None) -> dict[str, Any]:
    """Return the arguments of `subprocess.Popen` for a process that runs as user `name`."""
    return {} if name is None else {"user": name, "group": name, "extra_groups": ()}


def _spawn(server: Server, log: Path) -> psutil.Process:
    with log.open("ab") as output:
        process = subprocess.Popen(
            server.command,
            env=inherited() | dict(server.environment),
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            **as_account(server.account),
        )
    process.returncode = 0  # it outlives this handle on purpose, of which Python would warn
    return psutil.Process(process.pid)


def _running(note: Path) -> psutil.Process | None:
    """Return the process that `note` describes, unless it has ended."""
    if not note.exists():
        return None
    about = json.loads(note.read_text())
    try:
        process = psutil.Process(about["pid"])
        same = abs(process.create_time() - about["born"]) < 0.01
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _check_free(server: Server) -> None:
    with socket.socket() as probe:
        if probe.connect_ex((LOOPBACK, server.port)) == 0:
            raise UserError(
                f"port {server.port} of {server.name} is taken by something that `ila servers` did "
                "not start; give another (`ila servers up --help`)"
            )


def _end(process: psutil.Process, gently: int) -> None:
    """Send the server the signal `gently`; terminate, then kill, the children that remain."""
    family = process.children(recursive=True)
    process.send_signal(gently)
    _, left = psutil.wait_procs([process], timeout=_ENDED_WITHIN_SECONDS)
    for child in family:
        if child.is_running():
            child.terminate()
    _, still = psutil.wait_procs([*family, *left], timeout=5)
    for child in still:
        child.kill()
    psutil.wait_procs(still, timeout=5)
