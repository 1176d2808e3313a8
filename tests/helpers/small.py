"""A pipeline whose steps take a millisecond, run by what runs the real one: plan, loop and store.

Steps add numbers:

    first -> left  -> last
    first -> right -> last
    alone
"""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient

from flows import loop
from flows.results import profile_plan
from ila_core.config.load import load_profile
from tasks.cache import claim
from tasks.cache.step import Context, Step, in_order
from tasks.cache.step_run import StepRun
from tasks.steps import table as kinds
from tasks.tracking.client import open_client

PROFILE = load_profile("smoke")
LABELS = ("first", "left", "right", "last", "alone")
DEAD = f"{socket.gethostname()}:{2**30}:0"
"""The owner of claims whose process has ended: no pid is as large."""


class Small:
    """The pipeline in an ILA_HOME of its own, to whose store nobody else writes.

    Args:
        home: ILA_HOME; made from `template` where it does not exist.
        patch: undone after the test.
        template: a home with an empty store: to make its tables takes seconds.
    """

    def __init__(self, home: Path, patch: pytest.MonkeyPatch, template: Path) -> None:
        if not home.exists():
            shutil.copytree(template, home)
        self.home, self._patch = home, patch
        self.values = dict.fromkeys(LABELS, 1)
        """What each step adds: not its identity, as if a computation came out differently."""
        self.computed: list[str] = []
        self.failing: dict[str, Exception] = {}
        self.while_computing: Callable[[Step], None] = lambda step: None
        patch.setenv("ILA_HOME", str(home))
        patch.setenv("ILA_PREFECT", "off")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("PREFECT_API_URL", raising=False)
        patch.setitem(kinds.STEPS, "number", self._compute)
        patch.setattr(claim, "_POLL_SECONDS", 0.02)
        patch.setattr(loop, "ila_pipeline", self._pipeline)
        patch.setattr(profile_plan, "ila_pipeline", self._pipeline)
        self.steps = _steps()
        self.wanted: tuple[str, ...] = ("last", "alone")
        """A run finishes these and what they need."""

    def at(self, home: Path) -> None:
        """Go on in another ILA_HOME."""
        self.home = home
        self._patch.setenv("ILA_HOME", str(home))

    def run(self, refresh: Mapping[str, str] | None = None) -> dict[str, StepRun]:
        """Run it to its end; the finished runs by label."""
        again = {str(self.steps[label].key): why for label, why in (refresh or {}).items()}
        runs = loop.run_loop(PROFILE, "report", again, None)
        return {label: runs[k] for label, s in self.steps.items() if (k := str(s.key)) in runs}

    def results(self) -> dict[str, Any]:
        """The number of each step as a run finds it, by label; `computed` is left as it was."""
        before = list(self.computed)
        found = {
            label: json.loads((self.payload(run) / "n.json").read_bytes())
            for label, run in self.run().items()
        }
        assert self.computed == before, "something was missing"
        return found

    def copied(self, to: Path, owner: str | None = None) -> None:
        """What a process that starts now would find, in a folder of its own.

        Args:
            to: that folder.
            owner: who holds the claims there, in place of this process.
        """
        shutil.copytree(self.home, to)
        here, self.home = self.home, to
        for table, column in (("runs", "artifact_uri"), ("experiments", "artifact_location")):
            change = f"UPDATE {table} SET {column} = replace({column}, ?, ?)"
            self.tell(change, str(here), str(to))
        if owner is not None:
            self.tell("UPDATE tags SET value = ? WHERE key = 'ila.owner'", owner)
        self.home = here

    def at_each_write(self, tell: Callable[[str], None]) -> None:
        """Call `tell` after each write to MLflow and each file of a payload, with what it was."""

        def told(name: str) -> None:
            original = getattr(MlflowClient, name)

            def write(client: MlflowClient, *given: Any, **named: Any) -> Any:
                if given[1:2] == ("ila.heartbeat",):  # of another thread
                    return original(client, *given, **named)
                if name == "log_artifacts":
                    run_id, folder, where = given
                    tell("computed")
                    client.log_artifact(run_id, f"{folder}/a.json", where)
                    tell("half of the payload")
                result = original(client, *given, **named)
                tell(name)
                return result

            self._patch.setattr(MlflowClient, name, write)

        for name in ("create_run", "log_batch", "set_tag", "log_artifacts", "set_terminated"):
            told(name)
        self.while_computing = lambda step: tell("computing")

    def tell(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        """Rows of the store's database, or a change to it, behind everybody's back."""
        database = sqlite3.connect(self.home / "mlflow.db", timeout=60)
        with closing(database), database:
            return database.execute(query, values).fetchall()

    def finished(self) -> list[str]:
        """Labels of all finished runs that may be hits."""
        query = """
            SELECT l.value FROM runs r JOIN tags l ON l.run_uuid = r.run_uuid
            JOIN tags s ON s.run_uuid = r.run_uuid
            WHERE r.status = 'FINISHED' AND r.lifecycle_stage = 'active' AND l.key = 'ila.label'
            AND s.key = 'ila.state' AND s.value = 'valid'
        """
        return [label for (label,) in self.tell(query)]

    @staticmethod
    def payload(run: StepRun) -> Path:
        return Path(run.artifact_uri.removeprefix("file://")) / "payload"

    def _pipeline(self, *_: object) -> Any:
        wanted = tuple(self.steps[label] for label in self.wanted)
        return SimpleNamespace(profile=PROFILE, steps=lambda until: in_order(*wanted))

    def _compute(self, step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
        self.while_computing(step)
        if step.label in self.failing:
            raise self.failing[step.label]
        self.computed.append(step.label)
        read = [json.loads((folder / "n.json").read_bytes()) for folder in inputs.values()]
        (out / "a.json").write_text(json.dumps(step.label))
        (out / "n.json").write_text(json.dumps(self.values[step.label] + sum(read)))


def empty_home(folder: Path) -> Path:
    """An ILA_HOME whose store has its tables and nothing in them."""
    open_client(f"sqlite:///{folder / 'mlflow.db'}")
    return folder


def _steps() -> dict[str, Step]:
    first, alone = _step("first"), _step("alone")
    left, right = _step("left", first=first), _step("right", first=first)
    last = _step("last", left=left, right=right)
    return {step.label: step for step in in_order(last, alone)}


def _step(label: str, **inputs: Step) -> Step:
    return Step("number", label=label, version=1, identity={"of": label}, inputs=inputs)


def labels_in_order(labels: Sequence[str]) -> bool:
    """Whether every step comes after those that it needs."""
    needs = {"left": {"first"}, "right": {"first"}, "last": {"left", "right"}}
    return all(needs.get(label, set()) <= set(labels[:n]) for n, label in enumerate(labels))
