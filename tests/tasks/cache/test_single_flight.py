"""One computes, the others wait, say for whom, and take over; a waiter that goes harms nobody."""

import logging
import time

import pytest
from mlflow.entities import Metric

from ila_core.config import RuntimeConfig
from tasks.cache.lookup import open_lookup
from tasks.cache.step_run import HEARTBEAT_TTL_SECONDS, upstream_digest
from tasks.cache.store import Store
from tasks.run.execute import Waiting
from tasks.run.supervise import Interrupted, interruption
from tests.tasks.run.test_child import order_of


@pytest.fixture
def owned(monkeypatch, tmp_path):
    """A claimed step, which is 43 % done, and the store of somebody else who wants it too."""
    monkeypatch.setenv("ILA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    runtime = RuntimeConfig.from_env()
    order, store = order_of("prepare", runtime)
    now = int(time.time() * 1000)
    store.client.log_batch(order.run.run_id, metrics=[Metric("progress", 0.43, now, 1)])
    return order, Store(runtime, "demo")


def test_a_waiter_says_whom_it_waits_for_and_how_far_that_is(owned, caplog):
    order, other = owned

    class Enough(Exception):
        pass

    waiting = Waiting(order.step, bar=False)

    def once(run):
        waiting(run)
        raise Enough

    with caplog.at_level(logging.INFO, logger="ila"), pytest.raises(Enough):
        other.claim(order.step, upstream_digest({}), once)
    assert f"waits for run {order.run.run_id}" in caplog.text
    assert "43 %" in caplog.text


def test_a_waiter_that_is_cancelled_leaves_the_owner_alone(owned):
    order, other = owned
    interruption.set()
    try:
        with pytest.raises(Interrupted):
            other.claim(order.step, upstream_digest({}), Waiting(order.step, bar=False))
    finally:
        interruption.clear()
    (running,) = open_lookup(order.runtime).running(order.run.key)
    assert (running.run_id, running.alive) == (order.run.run_id, True)


def test_an_owner_without_a_heartbeat_is_taken_over(owned):
    order, other = owned
    long_ago = str(time.time() - HEARTBEAT_TTL_SECONDS - 1)
    other.client.set_tag(order.run.run_id, "ila.heartbeat", long_ago)
    run, mine = other.claim(order.step, upstream_digest({}), waiting=lambda run: None)
    assert mine
    assert run.run_id != order.run.run_id
