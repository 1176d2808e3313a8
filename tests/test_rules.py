"""The README's rules, as tests."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from flows.pipeline import ila_pipeline
from ila_core.data import DATASETS
from ila_core.evaluate.benchmarks import BENCHMARKS
from ila_core.export.formats import EXPORTERS
from ila_core.search.scorers import SCORERS
from ila_core.train.methods import METHODS
from tasks.steps.table import STEPS

ROOT = Path(__file__).parents[1]
LONGEST = 400


def test_the_dependency_contracts_hold():
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("folder", "table"),
    [
        ("search/scorers", SCORERS),
        ("train/methods", METHODS),
        ("evaluate/benchmarks", BENCHMARKS),
        ("export/formats", EXPORTERS),
    ],
)
def test_every_file_of_an_extensible_folder_is_in_its_table(folder, table):
    files = {p.stem for p in (ROOT / "ila_core" / folder).glob("*.py")} - {"__init__"}
    assert files == set(table)


def test_every_dataset_has_its_file():
    for name in DATASETS:
        importlib.import_module(f"ila_core.data.{name}")


def test_every_step_can_be_computed():
    assert all(callable(compute) for compute in STEPS.values())


def test_no_file_is_too_long():
    files = [
        p for top in ("ila_core", "tasks", "flows", "tests") for p in (ROOT / top).rglob("*.py")
    ]
    assert files
    long = {
        str(p.relative_to(ROOT)): n
        for p in files
        if (n := len(p.read_text().splitlines())) > LONGEST
    }
    assert not long


def test_pipeline_fits_one_screen():
    assert len(inspect.getsource(ila_pipeline).splitlines()) <= 60
    assert "import prefect" not in (ROOT / "flows/pipeline.py").read_text()
