"""Killed between any two writes, a run goes on: nothing finished is lost or computed again.

The process that is killed is played by a copy of ILA_HOME at that moment, whose claims belong to a
process that has ended; `test_together.py` kills real ones.
"""

import json
from contextlib import suppress

import pytest

from tests.conftest import Ila
from tests.helpers.small import DEAD, LABELS

pytestmark = pytest.mark.never_rerun

ALL = {"first": 1, "left": 2, "right": 2, "last": 5, "alone": 1}
OLD, NEW = {"first": 1, "left": 2}, {"first": 10, "left": 11}


def copies(small, tmp_path, run):
    """ILA_HOME after each write of `run`, by what was written."""
    found = []

    def keep(what):
        to = tmp_path / f"{len(found)}-{what.replace(' ', '-')}"
        small.copied(to, owner=DEAD)
        found.append(to)

    with pytest.MonkeyPatch.context() as patch:
        small._patch, before = patch, small._patch
        small.at_each_write(keep)
        with suppress(ZeroDivisionError):
            run()
    small._patch, small.while_computing = before, lambda step: None
    return found


def after(small, home):
    """Start again in `home` as it is; what was finished there, and what was computed now."""
    small.at(home)
    small.computed.clear()
    before = small.finished()
    small.run()
    return before, list(small.computed)


@pytest.mark.slow
def test_a_first_run_goes_on_from_wherever_it_was_killed(small, tmp_path):
    places = copies(small, tmp_path, small.run)
    assert len(places) == 8 * len(LABELS)
    for home in places:
        kept = [folder.name for folder in (home / "uncommitted").glob("*")]
        before, computed = after(small, home)
        waiting = {x for x, s in small.steps.items() if any(k.startswith(str(s.key)) for k in kept)}
        assert sorted([*computed, *{*before, *waiting}]) == sorted(LABELS), home.name
        assert small.results() == ALL, home.name
        assert sorted(small.finished()) == sorted(LABELS), "each once"
        running = small.tell("SELECT count(*) FROM runs WHERE status = 'RUNNING'")
        assert running == [(0,)], home.name


def test_a_refresh_leaves_the_old_results_or_the_new_ones_wherever_it_was_killed(small, tmp_path):
    small.wanted = ("left",)
    small.run()
    small.values["first"] = 10
    found = set()
    for home in copies(small, tmp_path, lambda: small.run({"first": "bad seed"})):
        after(small, home)
        results = small.results()
        assert results in (OLD, NEW), home.name
        found.add(results["first"])
    assert found == {1, 10}


def test_a_step_that_fails_leaves_the_rest_wherever_it_was_killed(small, tmp_path):
    small.wanted, small.failing["left"] = ("left",), ZeroDivisionError()
    for home in copies(small, tmp_path, small.run):
        small.failing.clear()
        before, computed = after(small, home)
        assert not set(before) & set(computed)
        assert small.results() == OLD, home.name


@pytest.mark.slow
def test_what_a_kill_leaves_behind_is_garbage_and_nothing_else_is(small, tmp_path):
    small.wanted = ("left",)
    small.run()
    small.values["first"] = 10
    for home in copies(small, tmp_path, lambda: small.run({"first": "bad seed"})):
        after(small, home)
        before = small.results()
        ila = Ila(home)
        removed = json.loads(ila("gc", "--older-than", "0", "--remove", "--json"))
        assert removed["removed"] and all(f["why"] for f in removed["found"])
        assert ila.json("gc", "--older-than", "0")["found"] == []
        assert small.results() == before, home.name
        assert sorted(small.finished()) == ["first", "left"]
