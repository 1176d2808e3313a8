"""What a flow says when steps fail, and when Prefect itself does."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from flows import step_flow
from flows.step_flow import _run_all
from ila_core.errors import CheckError


@dataclass(eq=False)
class Future:
    """As Prefect's: a step that failed is its result, and a Prefect that failed is raised."""

    outcome: object
    of_prefect: bool = False

    def result(self, raise_on_failure=True):
        if self.of_prefect:
            raise self.outcome
        return self.outcome


@dataclass
class Outcomes:
    """Of steps that need nothing, one after the other."""

    futures: list[Future]
    begun: list[str] = field(default_factory=list)

    def submit(self, handle, inputs):
        self.begun.append(handle.step.key)
        return self.futures[len(self.begun) - 1]

    def run(self, monkeypatch):
        monkeypatch.setattr(step_flow, "submit", self.submit)
        monkeypatch.setattr(step_flow, "as_completed", iter)
        steps = [SimpleNamespace(key=str(n), inputs={}) for n in range(len(self.futures))]
        return _run_all([SimpleNamespace(step=step) for step in steps], at_once=1)


def test_steps_that_need_no_failed_one_still_run(monkeypatch):
    failed = CheckError("stage1 lima: loss is NaN")
    found = Outcomes([Future(failed), Future("run")])
    with pytest.raises(CheckError) as raised:
        found.run(monkeypatch)
    assert raised.value is failed and found.begun == ["0", "1"]


def test_servers_that_are_away_are_one_error_that_a_later_try_may_find_mended(monkeypatch):
    away = [ConnectionError("MLflow at one"), ConnectionError("MLflow at two")]
    with pytest.raises(ConnectionError, match="at one"):
        Outcomes([Future(error) for error in away]).run(monkeypatch)


def test_a_prefect_that_fails_ends_the_run_and_hides_no_failed_step(monkeypatch):
    failed = ConnectionError("What stage1 lima computed is kept")
    found = Outcomes([Future(failed), Future(RuntimeError("503"), of_prefect=True), Future("run")])
    with pytest.raises(CheckError, match=r"stage1 lima computed is kept\n- 503"):
        found.run(monkeypatch)
    assert found.begun == ["0", "1"]
