"""Seconds and peak memory of a block of work.

>>> with measured() as cost: ...
>>> cost.seconds, cost.peak_memory_bytes
"""

import functools
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_PROC = Path("/proc/self")
_CPU = [torch.profiler.ProfilerActivity.CPU]


@dataclass
class Cost:
    seconds: float = 0.0
    peak_memory_bytes: int | None = None
    """CUDA: allocated by tensors. Linux CPU: resident memory of the whole process. Else unknown."""


@contextmanager
def measured(device: torch.device) -> Iterator[Cost]:
    """Fill the yielded `Cost` when the block ends."""
    cost = Cost()
    known = _reset_peak(device)
    started = time.perf_counter()
    yield cost
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    cost.seconds = time.perf_counter() - started
    cost.peak_memory_bytes = _peak(device) if known else None


class Allocations:
    """Most bytes that tensors hold at a time during a block of CPU work; 0 before there was one.

    Of the whole process, `Cost.peak_memory_bytes` holds libraries and what the allocator keeps as
    well; this is what `torch.cuda.max_memory_allocated` is on a GPU.
    """

    def __init__(self) -> None:
        self.peak = 0

    @contextmanager
    def watched(self, held: Iterable[torch.Tensor]) -> Iterator[None]:
        """Follow what the block allocates, on top of `held`, which is there already."""
        storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in held}
        now = most = sum(storages.values())
        _start_kineto()
        with torch.profiler.profile(activities=_CPU, profile_memory=True) as profiler:
            yield
        events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
        for event in sorted(events, key=lambda e: e.start_ns()):
            now += event.nbytes()
            most = max(most, now)
        self.peak = max(self.peak, most)


@functools.cache
def _start_kineto() -> None:
    """Start PyTorch's profiler once, without the ERROR that it prints and that is none.

    Steps run in another thread than the one that imported torch, and Kineto warns of that by
    `fprintf` (`libkineto_api.cpp`), which no log level stops. All else is passed on.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it says that it starts and stops
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            with torch.profiler.profile(activities=_CPU):
                pass
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        said.seek(0)
        os.write(2, b"".join(line for line in said if b"registerClient" not in line))


def _reset_peak(device: torch.device) -> bool:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        (_PROC / "clear_refs").write_text("5")  # resets VmHWM: man 5 proc_pid_clear_refs
    except OSError:  # not Linux, or a container that forbids it
        return False
    return True


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    found = re.search(r"VmHWM:\s+(\d+) kB", (_PROC / "status").read_text())
    return int(found[1]) * 1024 if found else None
