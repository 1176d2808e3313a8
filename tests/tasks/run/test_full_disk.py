"""A disk that fills up in the middle of a run: one message, and the same command goes on after."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT, Ila

pytestmark = [pytest.mark.slow, pytest.mark.never_rerun]
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]  # a disk of its own, no root
FULL = """
mount -t tmpfs -o size={size} tmpfs "$ILA_HOME" || exit 77
{ila} search smoke || echo "exit $?" >&2
"""
MORE = """
mount -o remount,size=200m "$ILA_HOME" && {ila} search smoke --json
"""


@pytest.fixture(scope="module", autouse=True)
def namespaces():
    try:
        made = subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode
    except FileNotFoundError:
        made = 1
    if made:
        pytest.skip("needs Linux user namespaces (unshare --user --mount) to make a small disk")


def on_a_disk_of(size, script, ila):
    """Standard output and error of the script with ILA_HOME on a disk of `size`."""
    ila.home.mkdir()
    done = subprocess.run(
        [
            *NAMESPACE,
            "sh",
            "-c",
            script.format(size=size, ila=f"{sys.executable} -m flows.cli.app"),
        ],
        cwd=ROOT,
        env=ila.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "exit 1" in done.stderr
    assert f"ila: the disk is full ({ila.home})" in done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_a_prefect_server_of_its_own_fills_it_before_a_step_has_finished(tmp_path):
    on_a_disk_of("6m", FULL, Ila(tmp_path / "home", prefect={}))


def test_in_the_middle_and_with_more_space_it_goes_on(ila):
    again = json.loads(on_a_disk_of("3m", FULL + MORE, ila))
    assert again["cached"] > 0 and again["computed"] > 0
    assert again["cached"] + again["computed"] == len(again["steps"])
