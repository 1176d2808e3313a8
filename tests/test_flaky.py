"""What is run once more when it fails, and what never is."""

import subprocess
import sys

from tests.conftest import ROOT

CONFTEST = """
from tests.helpers.flaky import name_flaky, rerun_once

def pytest_collection_modifyitems(items):
    rerun_once(items)

def pytest_terminal_summary(terminalreporter):
    name_flaky(terminalreporter)
"""
TESTS = """
from pathlib import Path
import pytest

def once(name):
    file = Path(__file__).with_name(name)
    seen = file.exists()
    file.touch()
    assert seen

@pytest.mark.slow
def test_slow():
    once("slow")

@pytest.mark.servers
def test_servers():
    once("servers")

@pytest.mark.slow
@pytest.mark.never_rerun
def test_race():
    once("race")

def test_fast():
    once("fast")

@pytest.mark.slow
def test_broken():
    assert False
"""


def test_a_slow_test_has_a_second_chance_and_a_race_has_none(tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n slow\n servers\n never_rerun\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path), "-rf"],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    flaky = {line.split("::")[1].split(":")[0] for line in lines if line.startswith("FLAKY ")}
    failed = {line.split("::")[1].split()[0] for line in lines if line.startswith("FAILED ")}
    assert flaky == {"test_slow", "test_servers"}
    assert failed == {"test_race", "test_fast", "test_broken"}
    assert done.returncode == 1
