"""Ctrl-C and a worker's SIGTERM end a run at its next step, not at the end of a training."""

import re
import signal

import pytest

from tests.conftest import WITHOUT_PREFECT, Ila, kill, wait_until

CODES = {signal.SIGINT: 130, signal.SIGTERM: -signal.SIGTERM}  # Prefect passes the latter on


@pytest.mark.slow
@pytest.mark.parametrize("environment", [WITHOUT_PREFECT, {}], ids=["loop", "prefect"])
def test_a_signal_ends_a_long_training(tmp_path, environment):
    ila = Ila(tmp_path / "home", prefect=environment)
    checkpoints = ila.home / "checkpoints"
    for number, code in CODES.items():
        process = ila.start(
            "search",
            "smoke",
            "--set",
            "search.stage1.stability.floor=1.0",
            "--set",
            "search.stage1.ranking_stop=null",
            "--set",
            "search.schedules.terse={lr: 2.0e-3, steps: 1000000}",
            ILA_CHECKPOINT_SECONDS="0",
        )
        try:
            wait_until(lambda: any(checkpoints.glob("*/checkpoint-*/complete.json")), process)
            process.send_signal(number)
            _, err = process.communicate()
        finally:
            kill(process)
        assert process.returncode == code, err
        if number == signal.SIGINT:
            assert err.rstrip().endswith("interrupted; the same command goes on where it stopped")
        assert any(checkpoints.iterdir())
        found = {check["name"]: check for check in ila.json("doctor")}["checkpoints"]
        folder = next(checkpoints.glob("*/checkpoint-*")).parent.name
        expected = rf"1 unfinished training, \d+ MiB: {folder} \(0 days old\)"
        assert re.fullmatch(expected, found["found"])
