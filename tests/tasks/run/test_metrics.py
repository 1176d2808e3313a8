"""A server's bad minute costs no training: metrics are kept back, and the end is strict."""

import logging

import pytest
from mlflow.exceptions import MlflowException

from tasks.run import metrics as module
from tasks.run.metrics import Journal, Pace


class Client:
    """Takes metrics in, or does not answer."""

    def __init__(self):
        self.up, self.taken = True, []

    def log_batch(self, run_id, metrics):
        if not self.up:
            raise MlflowException("Connection refused")
        self.taken += [(m.key, m.step) for m in metrics]


@pytest.fixture
def clock(monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: seconds[0])
    return seconds


def test_metrics_wait_for_a_server_that_is_away(clock, caplog):
    client = Client()
    journal = Journal(client, "run", "stage1")
    client.up = False
    clock[0] = 3
    with caplog.at_level(logging.WARNING, logger="ila"):
        journal.on_metrics(1, {"loss": 2.0})
    assert "stage1: progress is kept back for now: Connection refused" in caplog.text
    client.up = True
    journal.on_metrics(2, {"loss": 1.5})
    assert client.taken == []  # not asked again at once
    clock[0] = 40
    journal.on_metrics(3, {"loss": 1.0})
    assert client.taken == [("loss", 1), ("loss", 2), ("loss", 3)]


def test_tries_that_take_long_are_seldom(clock):
    pace = Pace(2)
    clock[0] = 3
    assert pace.due()
    with pace.tolerate_outage("progress is kept back"):
        clock[0] = 63  # the client tried for a minute
        raise MlflowException("Connection refused")
    clock[0] = 63 + 9 * 60 - 1
    assert not pace.due()
    clock[0] += 1
    assert pace.due()
    with pace.tolerate_outage("progress is kept back"):
        pass
    clock[0] += 2
    assert pace.due()


def test_at_the_end_the_server_must_answer(clock):
    client = Client()
    journal = Journal(client, "run", "stage1")
    journal.on_metrics(1, {"loss": 2.0})
    client.up = False
    with pytest.raises(MlflowException, match="Connection refused"):
        journal.close()
