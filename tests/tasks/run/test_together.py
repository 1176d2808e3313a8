"""Real processes on one store: each step is computed once, whoever is killed and when."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.helpers.small import LABELS
from tests.helpers.together import Runner

pytestmark = [pytest.mark.never_rerun, pytest.mark.slow]


def test_three_at_once_compute_each_step_once(small):
    runners = [Runner(small.home) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        computed = list(pool.map(Runner.to_the_end, runners))
    assert sorted(label for one in computed for label in one) == sorted(LABELS)
    assert sorted(small.finished()) == sorted(LABELS)
    assert small.results()["last"] == 5


def test_two_that_make_the_store_at_once(small, tmp_path):
    home = tmp_path / "new"
    runners = [Runner(home) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        computed = list(pool.map(Runner.to_the_end, runners))
    small.at(home)
    assert sorted(label for one in computed for label in one) == sorted(LABELS)
    assert small.tell("SELECT count(*) FROM experiments WHERE name = 'ila/demo'") == [(1,)]


@pytest.mark.parametrize("write", range(1, 17, 3))
def test_one_is_killed_and_the_other_takes_over(small, write):
    """In the first two steps, after one write in three; test_killed.py has every one of them."""
    killed = Runner(small.home)
    assert killed.until(write)
    before = small.finished()
    other = Runner(small.home)
    assert other.until(1)
    waited = other.said == ["waits"]
    killed.kill()
    computed = other.to_the_end()
    assert sorted(small.finished()) == sorted(LABELS)
    assert not set(before) & set(computed)
    assert small.results()["last"] == 5
    assert waited == (write % 8 != 0), "between two steps there is nothing to wait for"
