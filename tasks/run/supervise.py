"""A process that lives no longer than this one, and what it says, line by line."""

import os
import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

POLL_SECONDS = 0.1

interruption = threading.Event()
"""Set when the run is to end: the step under way ends at its next metric, and no other begins.

Python interrupts its main thread only, and steps run in another: without this, Ctrl-C or a worker's
SIGTERM would wait for hours of training.
"""


class Interrupted(Exception):
    """The run was told to end; the same command goes on from the last checkpoint."""


def stop_if_interrupted() -> None:
    """Raise `Interrupted` if the run was asked to end.

    Raises:
        Interrupted: it was.
    """
    if interruption.is_set():
        raise Interrupted("interrupted; the same command goes on where this one stopped")


class Devices:
    """Hands each process one of the devices that `CUDA_VISIBLE_DEVICES` lists, if it lists several.

    Args:
        at_once: how many processes there are; devices are shared where there are fewer of them.
    """

    def __init__(self, at_once: int) -> None:
        listed = [x for x in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if x]
        self._free: queue.Queue[str] | None = None
        if len(listed) > 1:
            self._free = queue.Queue()
            for i in range(max(at_once, len(listed))):
                self._free.put(listed[i % len(listed)])

    @contextmanager
    def one(self) -> Iterator[dict[str, str]]:
        """The environment that leaves a process its device alone."""
        if self._free is None:
            yield dict(os.environ)
            return
        device = self._free.get()
        try:
            yield {**os.environ, "CUDA_VISIBLE_DEVICES": device}
        finally:
            self._free.put(device)


def run_child(
    command: Sequence[str],
    said: str,
    output: Path,
    environment: Mapping[str, str],
    on_line: Callable[[str], None] | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> int:
    """Run a child process that lives no longer than this one. Returns its exit code.

    Its standard input gets `said` and then stays open: when this process dies, by whatever means,
    the pipe closes, and the child ends itself and all its own (`end_with_parent`). It writes to a
    file: through a pipe of its parent's, an orphan would keep a Prefect worker waiting.

    Args:
        command: that calls `end_with_parent` once it has read what it is told.
        said: what it is told.
        output: the file that it writes to.
        environment: its own.
        on_line: called with each line that it writes.
        meanwhile: called now and then.

    Raises:
        Interrupted: the run was told to end, and the child has.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("wb") as writing, output.open("rb") as reading:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=writing,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,  # a Ctrl-C is ours to pass on, and the group is the child's own
        )
        assert child.stdin is not None
        lines = _Lines(on_line)
        try:
            with suppress(BrokenPipeError):  # it ended already: its exit code says more
                child.stdin.write(said.encode())
                child.stdin.flush()
            while child.poll() is None:
                interruption.wait(POLL_SECONDS)
                stop_if_interrupted()
                lines.take(reading.read())
                if meanwhile is not None:
                    meanwhile()
        finally:
            # The whole group, whether or not its first process has ended: nothing is lost, because
            # what it finished is committed, and its training left checkpoints.
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            with suppress(BrokenPipeError):
                child.stdin.close()
        lines.take(reading.read())
    return child.returncode


def end_with_parent() -> None:
    """Let the end of standard input end this child process and all that it started."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="end with parent").start()


class _Lines:
    """Whole lines out of the pieces in which a file grows."""

    def __init__(self, on_line: Callable[[str], None] | None) -> None:
        self._on_line, self._rest = on_line, b""

    def take(self, piece: bytes) -> None:
        if self._on_line is None or not piece:
            return
        *whole, self._rest = (self._rest + piece).split(b"\n")
        for line in whole:
            if text := line.decode(errors="replace").rpartition("\r")[2].rstrip():
                self._on_line(text)
