"""The claim of a step, in every order in which two or three who want it can take turns.

MLflow is in memory here; tests/flows/test_together.py has real processes on a real store.
"""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from ila_core.config import RuntimeConfig
from tasks.cache import claim, store
from tasks.cache.step import Step
from tasks.cache.step_run import StepRun
from tasks.cache.store import Store

pytestmark = pytest.mark.never_rerun

STEP = Step("number", label="number", version=1, identity={"of": "number"})


class Died(BaseException):
    """As by `kill -9`: nothing that the process wanted to do happens any more."""


class Turns:
    """Lets threads go on one by one, each up to the next thing that others could notice.

    Args:
        schedule: who goes next, by number; then everybody in turn.
        dies: who is killed instead of doing what, by number.
    """

    def __init__(self, schedule, dies=None):
        self._schedule, self._dies = itertools.chain(schedule, itertools.cycle(range(3))), dies
        self._changed = threading.Condition()
        self._at_gate, self._go, self._acts = set(), None, {}
        self.me, self.dead = threading.local(), set()

    def run(self, actors):
        threads = [
            threading.Thread(target=self._act, args=(n, act), daemon=True)
            for n, act in enumerate(actors)
        ]
        self._live = set(range(len(actors)))
        for thread in threads:
            thread.start()
        with self._changed:
            while self._live:
                self._changed.wait_for(lambda: self._go is None and self._live <= self._at_gate)
                if self._live:
                    self._go = next(n for n in self._schedule if n in self._live)
                    self._at_gate.discard(self._go)
                    self._changed.notify_all()
        for thread in threads:
            thread.join()

    def gate(self):
        """Wait for one's turn."""
        me = self.me.number
        with self._changed:
            self._go = None if self._go == me else self._go
            self._at_gate.add(me)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._go == me)
        self._acts[me] = self._acts.get(me, -1) + 1
        if self._dies == (me, self._acts[me]):
            self.dead.add(me)
            raise Died

    def _act(self, number, act):
        self.me.number = number
        try:
            act(number)
        except Died:
            pass
        finally:
            with self._changed:
                self._live.discard(number)
                self._go = None if self._go == number else self._go
                self._changed.notify_all()


class Records:
    """MLflow's records of runs, as its client and as `Lookup`; each call is one turn."""

    def __init__(self, turns, clock):
        self.turns, self._clock, self.runs = turns, clock, {}

    def get_experiment_by_name(self, name):
        return SimpleNamespace(experiment_id="1")

    def create_run(self, experiment, run_name, tags):
        self.turns.gate()
        run_id = f"run-{len(self.runs)}"
        start = self._clock(len(self.runs))
        self.runs[run_id] = StepRun(run_id, "RUNNING", start, "", dict(tags), {})
        data = SimpleNamespace(tags=tags, params={}, metrics={})
        info = SimpleNamespace(
            run_id=run_id, status="RUNNING", start_time=start, artifact_uri="", end_time=None
        )
        return SimpleNamespace(info=info, data=data)

    def log_batch(self, run_id, params):
        self.turns.gate()

    def set_terminated(self, run_id, status):
        self.turns.gate()
        run = self.runs[run_id]
        self.runs[run_id] = replace(run, status=status, end_time=run.start_time + 1)

    def finished(self, key):
        return self._of("FINISHED")

    def running(self, key):
        return self._of("RUNNING")

    def _of(self, status):
        self.turns.gate()
        found = [run for run in self.runs.values() if run.status == status]
        return sorted(found, key=lambda run: run.start_time)


def one_after_the_other(number):
    return number


def later_ones_first(number):
    return -number


@pytest.fixture
def play(monkeypatch, tmp_path):
    """`play(wanting, schedule, ...)`: who computed, what each came to, and the records."""
    runtime = RuntimeConfig(home=tmp_path, tracking_uri="memory")

    def play(wanting, schedule, dies=None, clock=one_after_the_other):
        turns = Turns(schedule, dies)
        records = Records(turns, clock)
        monkeypatch.setattr(store, "open_client", lambda uri: records)
        monkeypatch.setattr(store, "open_lookup", lambda *_: records)
        monkeypatch.setattr(claim, "owner", lambda: str(turns.me.number))
        monkeypatch.setattr(claim, "_owner_is_gone", lambda owner: int(owner) in turns.dead)
        sleeping = SimpleNamespace(sleep=lambda seconds: turns.gate(), time=time.time)
        monkeypatch.setattr(claim, "time", sleeping)
        computed, found = [], {}

        def want(number):
            run, mine = Store(runtime, "demo").claim(STEP, "inputs", waiting=lambda run: None)
            if mine:
                turns.gate()  # it computes
                computed.append(number)
                records.set_terminated(run.run_id, "FINISHED")
            found[number] = run.run_id

        turns.run([want] * wanting)
        assert found.keys() | turns.dead == set(range(wanting))
        return SimpleNamespace(computed=computed, found=found, dead=turns.dead, records=records)

    monkeypatch.setattr(StepRun, "upstream", "inputs")
    return play


def statuses(played):
    return sorted(run.status for run in played.records.runs.values())


def test_two_compute_it_once_in_whatever_order_they_take_turns(play):
    for schedule in itertools.product((0, 1), repeat=9):
        played = play(2, schedule)
        assert len(played.computed) == 1, schedule
        assert len(set(played.found.values())) == 1, schedule
        assert set(statuses(played)) <= {"FINISHED", "KILLED"}, schedule


def test_three_compute_it_once(play):
    for schedule in itertools.product((0, 1, 2), repeat=5):
        played = play(3, schedule)
        assert len(played.computed) == 1 and len(set(played.found.values())) == 1, schedule


def test_whoever_is_killed_at_whatever_moment_the_other_takes_over(play):
    deaths = set()
    for act, *schedule in itertools.product(range(9), *[(0, 1)] * 6):
        played = play(2, schedule, dies=(0, act))
        deaths.add(len(played.dead))
        (finished,) = [r for r in played.records.runs.values() if r.status == "FINISHED"]
        assert played.found[1] == finished.run_id, (act, schedule)
        assert len(played.computed) <= 1 + len(played.dead)
        left = {r.tags["ila.owner"] for r in played.records.runs.values() if r.end_time is None}
        assert left <= {"0"}, "a claim that outlived its use, which `ila gc` removes"
    assert deaths == {0, 1}, "the later deaths come after the end in some schedules"


def test_whatever_their_clocks_say_one_of_two_computes_it(play):
    """A start is read off the client's clock, before the run can be seen: order proves nothing."""
    for schedule in itertools.product((0, 1), repeat=9):
        played = play(2, schedule, clock=later_ones_first)
        assert len(played.computed) == 1, schedule
        assert len(set(played.found.values())) == 1, schedule
        assert set(statuses(played)) <= {"FINISHED", "KILLED"}, schedule


def test_whatever_their_clocks_say_one_of_three_computes_it(play):
    for schedule in itertools.product((0, 1, 2), repeat=5):
        played = play(3, schedule, clock=later_ones_first)
        assert len(played.computed) == 1 and len(set(played.found.values())) == 1, schedule
