"""GPUs are counted by a real Prefect server: never more at once, and none lost to a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.run.gpu_slots import LEASE_SECONDS
from tests.conftest import ROOT, wait_until
from tests.helpers.forked import HANG
from tests.helpers.served import free_port, post, running, wait_for

pytestmark = [pytest.mark.servers, pytest.mark.slow]

HOLD = """
import sys, time
from pathlib import Path
from tasks.run.gpu_slots import slot
log, name, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
with slot("gpu", name):
    log.write_text(str(time.time()))
    end = time.time() + seconds
    while time.time() < end:
        time.sleep(0.1)
    log.write_text(f"{log.read_text()} {time.time()}")
"""


@pytest.fixture(scope="module")
def prefect(tmp_path_factory):
    """The environment of a process that uses a Prefect server with one GPU."""
    folder = tmp_path_factory.mktemp("slots")
    port = free_port()
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ILA_", "PREFECT_"))}
    serving = {
        "PREFECT_HOME": str(folder / "server"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
    }
    command = ["prefect", "server", "start", "--port", str(port)]
    with running(command, inherited | serving, folder / "log"):
        wait_for(f"http://127.0.0.1:{port}/api/health", folder / "log")
        post(f"http://127.0.0.1:{port}/api/v2/concurrency_limits/", {"name": "gpu", "limit": 1})
        yield inherited | {
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_HOME": str(folder / "client"),
        }


def hold(environment, log: Path, seconds: float, **pipes):
    command = [sys.executable, "-c", HOLD, str(log), log.name, str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def test_two_processes_hold_one_gpu_one_after_the_other(prefect, tmp_path):
    logs = [tmp_path / "a", tmp_path / "b"]
    both = [hold(prefect, log, 4) for log in logs]
    assert [process.wait(HANG) for process in both] == [0, 0]
    (_, first_end), (second_start, _) = sorted(
        [float(x) for x in log.read_text().split()] for log in logs
    )
    assert second_start >= first_end


def test_a_killed_process_gives_its_gpu_back_when_its_lease_ends(prefect, tmp_path):
    holder = hold(prefect, tmp_path / "holder", 600)
    wait_until(lambda: (tmp_path / "holder").exists(), holder)
    os.kill(holder.pid, signal.SIGKILL)
    assert hold(prefect, tmp_path / "next", 0).wait(10 * LEASE_SECONDS) == 0
    holder.wait()


def test_a_slot_that_the_server_no_longer_keeps_ends_the_step(prefect, tmp_path):
    holder = hold(prefect, tmp_path / "training", HANG, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: (tmp_path / "training").exists(), holder)
    (lease,) = (Path(prefect["PREFECT_HOME"]).parent / "server").glob("concurrency_leases/*-*.json")
    api = prefect["PREFECT_API_URL"]
    post(f"{api}/v2/concurrency_limits/decrement-with-lease", {"lease_id": lease.stem})
    _, said = holder.communicate(timeout=HANG)
    logged, _, raised = said.partition("Traceback")
    assert "Terminating execution to prevent over-allocation" in logged
    assert (
        "ConnectionError: training ended: the Prefect server no longer keeps its slot of the limit "
        "'gpu' (it was away, or started anew); the same command goes on from the last checkpoint"
    ) in raised
    assert holder.returncode == 1
    assert hold(prefect, tmp_path / "next", 0).wait(HANG) == 0


def test_a_run_of_several_jobs_never_takes_more_than_there_are(prefect, finished, ila):
    environment = {**prefect, "ILA_JOBS": "3", "ILA_GPU_LIMIT": "gpu"}
    process = ila.start("search", "smoke", "--json", **environment)
    taken = set()
    while process.poll() is None:
        taken.add(slots(prefect))
        time.sleep(0.3)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert taken == {0, 1}
    answer = json.loads(out)
    assert answer["computed"] > 0
    ours = ila.json("rankings", "show", answer["ranking"])
    theirs = finished.json("rankings", "show", answer["ranking"])
    assert ours["layers"] == theirs["layers"]


def slots(environment) -> int:
    from urllib.request import urlopen

    address = f"{environment['PREFECT_API_URL']}/v2/concurrency_limits/gpu"
    with urlopen(address, timeout=HANG) as answer:
        return int(json.load(answer)["active_slots"])
