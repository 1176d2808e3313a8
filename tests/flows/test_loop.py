"""`ILA_PREFECT=off`: the same results and errors as by Prefect, and nothing of Prefect loaded."""

import subprocess
import sys

import pytest

from flows.actions.run import followed
from ila_core.errors import CheckError, UserError
from tests.conftest import ROOT, STEPS
from tests.helpers.small import labels_in_order

REFRESHED = """
import sys
from flows.cli.app import app
try:
    app(["run", "smoke", "--refresh", "selection all", "--reason", "to compute"])
finally:
    assert "mlflow" in sys.modules
    found = [name for name in sys.modules if name.partition(".")[0] == "prefect"]
    assert not found, found
"""


def test_a_run_that_computes_imports_nothing_of_prefect(finished, tmp_path):
    ila = finished.copied(tmp_path / "home")
    done = subprocess.run(
        [sys.executable, "-c", REFRESHED], cwd=ROOT, env=ila.environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 steps computed, 34 cached" in done.stdout


@pytest.mark.slow
@pytest.mark.never_rerun
def test_by_prefect_and_without_it_keys_and_bytes_are_the_same(finished, newcomers):
    ours, theirs = finished.json("run", "smoke"), newcomers.json("run", "smoke")
    assert (ours["computed"], theirs["computed"]) == (0, 0)
    assert ours["steps"] == theirs["steps"] and len(ours["steps"]) == STEPS
    assert finished.digests() == newcomers.digests()


def test_steps_run_once_each_in_the_order_of_the_plan(small):
    runs = small.run()
    assert labels_in_order(small.computed) and len(small.computed) == len(runs) == 5
    assert small.results() == {"first": 1, "left": 2, "right": 2, "last": 5, "alone": 1}


def test_steps_that_need_no_failed_one_still_run(small):
    small.failing["left"] = CheckError("loss is NaN")
    with pytest.raises(CheckError, match=r"^left: loss is NaN$"):
        small.run()
    assert sorted(small.computed) == ["alone", "first", "right"]
    small.failing.clear()
    small.run()
    assert small.computed[3:] == ["left", "last"]


def test_the_kind_of_the_only_failure_stays(small):
    small.failing["alone"] = UserError("the split is empty")
    with pytest.raises(UserError, match=r"^alone: the split is empty$"):
        small.run()


def test_several_failures_are_told_together(small):
    small.failing |= {"left": CheckError("NaN"), "alone": UserError("empty")}
    with pytest.raises(CheckError) as caught:
        small.run()
    assert str(caught.value) == (
        "2 steps failed:\n- left: NaN\n- alone: empty\n1 that need them were not begun; "
        "2 are finished and kept, and the same command computes what is missing"
    )


def test_several_failures_of_wrong_input_are_wrong_input(small):
    small.failing |= {"left": UserError("too few rows"), "alone": UserError("empty")}
    with pytest.raises(UserError, match="2 steps failed:\n- left: too few rows\n- alone: empty"):
        small.run()


def test_a_bug_of_ours_goes_up_as_it_is(small):
    small.failing["right"] = KeyError("x")
    with pytest.raises(KeyError):
        small.run()


def test_ctrl_c_ends_it_at_once_and_leaves_nothing_running(small):
    def pressed(step):
        if step.label == "left":
            raise KeyboardInterrupt

    small.while_computing = pressed
    with pytest.raises(KeyboardInterrupt):
        small.run()
    assert small.computed == ["first"]
    statuses = dict(small.tell("SELECT status, count(*) FROM runs GROUP BY status"))
    assert statuses == {"FINISHED": 1, "FAILED": 1}


def test_what_a_server_cannot_be_told_any_more_hides_no_ctrl_c(capsys):
    with pytest.raises(SystemExit) as caught, followed():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise ConnectionError("its server ended by the same Ctrl-C")  # noqa: B904
    assert caught.value.code == 130
    said = capsys.readouterr().err
    assert said == "ila: interrupted; the same command goes on where it stopped\n"
    with pytest.raises(ConnectionError, match="away"), followed():
        raise ConnectionError("away")


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("ILA_GPU_LIMIT", "gpu", "GPUs are counted by a Prefect server"),
        ("ILA_JOBS", "2", "steps run side by side as Prefect tasks"),
    ],
)
def test_what_prefect_alone_does_is_refused_before_anything_is_begun(
    small, monkeypatch, variable, value, why
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"^{variable}={value} with ILA_PREFECT=off: {why}"):
        small.run()
    assert small.computed == []


@pytest.mark.parametrize("command", [["tune", "smoke"], ["evaluate", "smoke", "--jobs", "2"]])
def test_processes_side_by_side_are_refused(ila, command):
    said = ila(*command, expect=2)
    assert "with ILA_PREFECT=off: its processes are tasks of a Prefect flow. Unset it" in said
