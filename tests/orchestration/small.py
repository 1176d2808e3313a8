"""A pipeline whose steps take a millisecond, run by what runs the real one: plan, loop and store.

Steps add numbers:

    first -> left  -> last
    first -> right -> last
    alone
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import loop, run
from ila_core.config import RuntimeConfig
from ila_core.profiles import load_profile
from tasks import steps as kinds
from tasks.lookup import StepRun
from tasks.step import Context, Step, in_order
from tasks.tracking import open_client

PROFILE = load_profile("smoke")
LABELS = ("first", "left", "right", "last", "alone")
NOBODY = "elsewhere:0:0"


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
        patch.setattr(loop, "ila_pipeline", self._pipeline)
        patch.setattr(run, "ila_pipeline", self._pipeline)
        self.steps = _steps()

    def at(self, home: Path) -> None:
        """Go on in another ILA_HOME."""
        self.home = home
        self._patch.setenv("ILA_HOME", str(home))

    def run(self, refresh: Mapping[str, str] | None = None) -> dict[str, StepRun]:
        """Run it to its end; the finished runs by label."""
        again = {str(self.steps[label].key): why for label, why in (refresh or {}).items()}
        runs = loop.run_loop(PROFILE, "report", again, None)
        return {label: runs[str(step.key)] for label, step in self.steps.items()}

    def results(self) -> dict[str, Any]:
        """The number of each step as a run finds it, by label; `computed` is left as it was."""
        before = list(self.computed)
        found = {
            label: json.loads((_payload(run) / "n.json").read_bytes())
            for label, run in self.run().items()
        }
        assert self.computed == before, "something was missing"
        return found

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

    def runtime(self) -> RuntimeConfig:
        return RuntimeConfig.from_env()

    def _pipeline(self, *_: object) -> Any:
        last = (self.steps["last"], self.steps["alone"])
        return SimpleNamespace(profile=PROFILE, targets=lambda until: last)

    def _compute(self, step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
        self.while_computing(step)
        if step.label in self.failing:
            raise self.failing[step.label]
        self.computed.append(step.label)
        read = [json.loads((folder / "n.json").read_bytes()) for folder in inputs.values()]
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


def _payload(run: StepRun) -> Path:
    return Path(run.artifact_uri.removeprefix("file://")) / "payload"


def labels_in_order(labels: Sequence[str]) -> bool:
    """Whether every step comes after those that it needs."""
    needs = {"left": {"first"}, "right": {"first"}, "last": {"left", "right"}}
    return all(needs.get(label, set()) <= set(labels[:n]) for n, label in enumerate(labels))
