"""The small pipeline in a process of its own, which is forked from one that has the libraries."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests.helpers.small import Small

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["mlflow.store.tracking.sqlalchemy_store", "peft", "tests.helpers.small"]
)


def run(home: Path, template: Path | None, parent: Connection) -> None:
    """Run it, telling of each write and wait, going on when told to; last, what was computed."""
    home.mkdir(exist_ok=True)
    small = Small(home, pytest.MonkeyPatch(), home if template is None else template)

    def tell(what: str) -> None:
        parent.send(what)
        parent.recv()

    small.at_each_write(tell)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.run.execute.Waiting.__call__", lambda *_: tell("waits"))
        small.run()
    parent.send(small.computed)


class Runner:
    """One such process."""

    def __init__(self, home: Path, template: Path | None = None) -> None:
        self._here, there = PROCESSES.Pipe()
        self._process = PROCESSES.Process(target=run, args=(home, template, there))
        self._process.start()
        there.close()
        self.said: list[str] = []
        self.computed: list[str] | None = None

    def until(self, writes: int) -> bool:
        """Let it go on until it has made so many writes; whether it waits there now."""
        while len(self.said) < writes:
            if self.said:
                self._here.send("go on")
            if not self._hear():
                return False
        return True

    def to_the_end(self) -> list[str]:
        """Let it go on to its end; what it computed."""
        if self.said:
            self._here.send("go on")
        while self._hear():
            self._here.send("go on")
        self._process.join()
        assert self._process.exitcode == 0 and self.computed is not None
        return self.computed

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def _hear(self) -> bool:
        """Whether it waits; else it has ended."""
        heard = self._here.recv()
        if isinstance(heard, list):
            self.computed = heard
            return False
        self.said.append(heard)
        return True
