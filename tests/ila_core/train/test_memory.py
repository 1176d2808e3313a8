"""What tensors hold at most, and that asking is silent."""

import subprocess
import sys

import torch

from ila_core.train.memory import Allocations

MIB = 2**20
IN_A_THREAD = """
import threading
from ila_core.train.memory import Allocations
import torch

def watch():
    with Allocations().watched([]):
        torch.zeros(1)

thread = threading.Thread(target=watch)
thread.start()
thread.join()
"""


def test_what_is_held_before_and_what_comes_and_goes_meanwhile_are_counted():
    held = torch.zeros(MIB, dtype=torch.uint8)
    allocations = Allocations()
    with allocations.watched([held, held[: MIB // 2]]):  # one storage
        for _ in range(3):
            torch.zeros(2 * MIB, dtype=torch.uint8)
    assert allocations.peak == 3 * MIB
    with allocations.watched([held]):
        pass
    assert allocations.peak == 3 * MIB


def test_a_thread_that_did_not_import_torch_asks_in_silence():
    done = subprocess.run([sys.executable, "-c", IN_A_THREAD], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
