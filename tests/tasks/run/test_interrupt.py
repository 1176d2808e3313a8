"""Ctrl-C and a worker's SIGTERM end a run at its next step, not at the end of a training."""

import re
import signal

import pytest

from tests.conftest import WITHOUT_PREFECT, Ila, kill, wait_until

LONG = (
    "search.stage1.stability.floor=1.0",
    "search.stage1.ranking_stop=null",
    "search.schedules.terse={lr: 2.0e-3, steps: 1000000}",
)


@pytest.mark.slow
@pytest.mark.never_rerun
@pytest.mark.parametrize(
    ("way", "number", "code"),
    [
        ("loop", signal.SIGINT, 130),
        ("flow", signal.SIGINT, 130),
        ("flow", signal.SIGTERM, -signal.SIGTERM),  # which Prefect passes on
    ],
)
def test_a_signal_ends_a_long_training(tmp_path, request, way, number, code):
    with_prefect = request.getfixturevalue("prefect") if way == "flow" else WITHOUT_PREFECT
    ila = Ila(tmp_path / "home", prefect=with_prefect)
    checkpoints = ila.home / "checkpoints"
    words = [word for override in LONG for word in ("--set", override)]
    process = ila.start("search", "smoke", *words, ILA_CHECKPOINT_SECONDS="0")
    try:
        wait_until(lambda: any(checkpoints.glob("*/checkpoint-*/complete.json")), process)
        process.send_signal(number)
        _, err = process.communicate()
    finally:
        kill(process)
    assert process.returncode == code, err
    if number == signal.SIGINT:
        assert err.rstrip().endswith("interrupted; the same command goes on where it stopped")
    found = {check["name"]: check for check in Ila(ila.home).json("doctor")}["checkpoints"]
    folder = next(checkpoints.glob("*/checkpoint-*")).parent.name
    expected = rf"1 unfinished training, \d+ MiB: {folder} \(0 days old\)"
    assert re.fullmatch(expected, found["found"])
