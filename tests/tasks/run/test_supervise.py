"""A child process says what it does, and nothing of it outlives the process that started it."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from tasks.run.supervise import Devices, Interrupted, interruption, run_child
from tests.conftest import ROOT

CHILD = """
import subprocess, sys, time
from tasks.run.supervise import end_with_parent
print(sys.stdin.readline().strip(), flush=True)
end_with_parent()
stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
worker = subprocess.Popen([sys.executable, "-c", stubborn])
print("worker", worker.pid, flush=True)
"""
PARENT = """
import os, sys
from pathlib import Path
from tasks.run.supervise import run_child
child, output = sys.argv[1:]
run_child([sys.executable, "-c", child], "hello\\n", Path(output), os.environ)
"""


def test_what_a_child_says_arrives_line_by_line_and_its_exit_code(tmp_path):
    lines = []
    code = run_child(
        [sys.executable, "-c", f"{CHILD}\nprint('done'); sys.exit(5)"],
        "hello\n",
        tmp_path / "logs" / "child.log",
        os.environ,
        lines.append,
    )
    assert code == 5
    assert lines[0] == "hello" and lines[2] == "done"
    wait_for(lambda: gone(int(lines[1].split()[1])))  # what a child started ends with it


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_parent_that_dies_takes_all_with_it(tmp_path, number):
    output = tmp_path / "child.log"
    command = [sys.executable, "-c", PARENT, f"{CHILD}\ntime.sleep(600)", str(output)]
    parent = subprocess.Popen(command, cwd=ROOT)
    worker = int(wait_for(lambda: "worker" in said(output) and said(output).split()[-1]))
    (child,) = psutil.Process(parent.pid).children()
    parent.send_signal(number)
    parent.wait(30)
    wait_for(lambda: gone(child.pid) and gone(worker))


def test_an_interruption_ends_the_child(tmp_path):
    output = tmp_path / "child.log"
    threading.Thread(
        target=lambda: wait_for(lambda: "worker" in said(output)) and interruption.set()
    ).start()
    try:
        with pytest.raises(Interrupted):
            run_child(
                [sys.executable, "-c", f"{CHILD}\ntime.sleep(600)"], "hello\n", output, os.environ
            )
    finally:
        interruption.clear()
    wait_for(lambda: gone(int(said(output).split()[-1])))


def test_a_child_that_never_listens_is_only_an_exit_code(tmp_path):
    command = [sys.executable, "-c", "raise SystemExit(5)"]
    assert run_child(command, "x" * 10**6, tmp_path / "output", os.environ) == 5


def test_processes_take_turns_on_the_listed_devices(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    devices = Devices(2)
    with devices.one() as first, devices.one() as second:
        assert {first["CUDA_VISIBLE_DEVICES"], second["CUDA_VISIBLE_DEVICES"]} == {"4", "7"}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with Devices(2).one() as alone:
        assert "CUDA_VISIBLE_DEVICES" not in alone


def said(path):
    return path.read_text() if path.exists() else ""


def gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for(reached):
    while not (found := reached()):
        time.sleep(0.01)
    return found
