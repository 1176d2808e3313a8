"""GPUs are counted by a real Prefect server: never more at once, and none lost to a kill."""

import json
import os
import subprocess
import sys
import threading
from urllib.request import urlopen

import pytest

from tests.conftest import ROOT
from tests.helpers.served import post

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.never_rerun]

HOLD = """
import logging, sys
from tasks.run.gpu_slots import slot
log = logging.getLogger("ila")
log.setLevel(logging.INFO)
log.addHandler(logging.StreamHandler(sys.stdout))
with slot(sys.argv[1], "training"):
    print("held", flush=True)
    while sys.stdin.readline() != "give back\\n":
        pass
print("given back", flush=True)
"""


class Limit:
    """A limit of 1 on the Prefect server of all tests."""

    def __init__(self, prefect, name, folder):
        self.name, self._api, self._folder = name, prefect["PREFECT_API_URL"], folder
        made = post(f"{self._api}/v2/concurrency_limits/", {"name": name, "limit": 1})
        self.id = made["id"]

    @property
    def taken(self):
        with urlopen(f"{self._api}/v2/concurrency_limits/{self.name}") as answer:
            return int(json.load(answer)["active_slots"])

    def take_back(self):
        """As a server that was away and has forgotten who held it."""
        (lease,) = (
            file.stem
            for file in self._folder.glob("*/concurrency_leases/*-*.json")
            if self.id in json.loads(file.read_text())["resource_ids"]
        )
        post(f"{self._api}/v2/concurrency_limits/decrement-with-lease", {"lease_id": lease})


@pytest.fixture
def limit(prefect, prefect_folder, tmp_path):
    return Limit(prefect, f"one-{tmp_path.name}"[:40], prefect_folder)


@pytest.fixture
def hold(prefect, limit, tmp_path):
    """Starts a process that holds a slot until it is told to give it back."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ILA_", "PREFECT_"))}
    environment |= prefect | {"PREFECT_HOME": str(tmp_path / "client")}
    started = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, limit.name], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def until(process, said):
    """Read what the process says up to a line that ends so."""
    for line in process.stdout:
        if line.rstrip().endswith(said):
            return
    raise AssertionError(process.stderr.read())


def test_a_limit_of_one_is_held_by_one_and_outlives_a_kill(hold, limit):
    first = hold()
    until(first, "held")
    second = hold()
    until(second, f"waits for a slot of the limit {limit.name!r}")
    assert limit.taken == 1
    first.stdin.write("give back\n")
    first.stdin.flush()
    until(first, "given back")
    until(second, "held")
    assert limit.taken == 1
    second.kill()
    third = hold()
    until(third, "held")  # when the lease of the one that was killed ends
    assert limit.taken == 1


def test_a_slot_that_the_server_no_longer_keeps_ends_the_step(hold, limit):
    holder = hold()
    until(holder, "held")
    limit.take_back()
    _, said = holder.communicate()
    logged, _, raised = said.partition("Traceback")
    assert "Terminating execution to prevent over-allocation" in logged
    assert (
        "ConnectionError: training ended: the Prefect server no longer keeps its slot of the limit "
        f"'{limit.name}' (it was away, or started anew); the same command goes on from the last "
        "checkpoint"
    ) in raised
    assert holder.returncode == 1
    assert limit.taken == 0


def test_a_run_of_several_jobs_never_takes_more_than_there_are(prefect, limit, finished, tmp_path):
    """Two steps that need no other, each in a process of its own."""
    several = {"ILA_JOBS": "2", "ILA_GPU_LIMIT": limit.name}
    ila = finished.copied(tmp_path / "home", prefect | several)
    again = [word for arm in ("all", "random") for word in ("--refresh", f"selection {arm}")]
    process = ila.start("run", "smoke", *again, "--reason", "to hold a slot", "--json")
    taken, ended = set(), threading.Event()

    def look():
        while not ended.wait(0.1):
            taken.add(limit.taken)

    looking = threading.Thread(target=look)
    looking.start()
    out, err = process.communicate()
    ended.set()
    looking.join()
    assert process.returncode == 0, err
    assert taken == {0, 1}
    assert json.loads(out)["computed"] == 2
    assert ila.digests() == finished.digests()
