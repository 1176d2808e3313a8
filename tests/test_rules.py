"""The README's rules, as tests."""

import ast
import inspect
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

from benchmarks import counts
from flows.pipeline import ila_pipeline
from ila_core.evaluate.benchmarks import BENCHMARKS
from ila_core.export.formats import EXPORTERS
from ila_core.search.scorers import SCORERS
from ila_core.train.methods import METHODS
from tasks.steps.table import STEPS

ROOT = Path(__file__).parents[1]


def test_the_dependency_contracts_hold():
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    contracts = (ROOT / "pyproject.toml").read_text().count("[[tool.importlinter.contracts]]")
    assert contracts >= 8 and f"{contracts} kept, 0 broken" in done.stdout


def test_no_modules_import_each_other_in_a_circle():
    graph = grimp.build_graph(*counts.PRODUCT, cache_dir=None)
    imports = {m: graph.find_modules_directly_imported_by(m) for m in graph.modules}
    assert len(imports) > 200
    TopologicalSorter(imports).prepare()  # a CycleError names the circle


@pytest.mark.parametrize("module", ["ila_core.selection.finetune", "tasks.steps.finetune.finetune"])
def test_importing_what_fine_tunes_imports_no_judge_and_no_report(module):
    code = f"import sys, {module}; print([*sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = ast.literal_eval(done.stdout.splitlines()[-1])
    assert module in loaded
    unwanted = ("ila_core.judge", "ila_core.evaluate", "ila_core.report", "ila_core.export")
    assert not [name for name in loaded if name.startswith((*unwanted, "openai", "matplotlib"))]


TALKING = {
    "flows/step_process.py": "a program of its own",
    "flows/fan_out/child.py": "a program of its own",
    "flows/actions/run.py": "Ctrl-C ends a command with 130",
    "flows/actions/compare.py": "its exit code is the answer",
    "flows/actions/control.py": "its exit code is the answer",
    "flows/actions/verify.py": "its exit code is the answer",
}
"""Who prints or exits and is neither a command nor a view; to be empty but for the programs."""


def test_who_prints_and_who_exits():
    found = set()
    for top in counts.PRODUCT:
        for path in (ROOT / top).rglob("*.py"):
            if path.is_relative_to(ROOT / "ila_core/export/formats/scripts"):
                continue  # what an export ships to run elsewhere
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.exit"):
                    found.add(str(path.relative_to(ROOT)))
    assert {f for f in found if not f.startswith(("flows/cli/", "flows/views/"))} == set(TALKING)


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


def test_every_step_can_be_computed():
    assert all(callable(compute) for compute in STEPS.values())


def test_no_folder_and_no_file_is_too_large():
    found = counts.counts()
    assert len(found["folders"]) > 20 and found["product_lines"] > 10_000
    assert not found["over"]


def test_what_is_over_a_limit_is_said(tmp_path):
    for top in (*counts.PRODUCT, "tests", "benchmarks"):
        (tmp_path / top / "one").mkdir(parents=True)
    (tmp_path / "tasks/loose.py").write_text("")
    (tmp_path / "flows/one/alone.py").write_text("x = 1\n" * 401)
    for number in range(17):
        (tmp_path / f"ila_core/one/module{number}.py").write_text("")
    assert counts.counts(tmp_path)["over"] == [
        "tasks: 1 loose modules, at most 0",
        "ila_core/one: 17 modules, 2 to 16",
        "flows/one: 1 modules, 2 to 16",
        "flows/one/alone.py: 401 lines, at most 400",
    ]


def test_pipeline_fits_one_screen():
    assert len(inspect.getsource(ila_pipeline).splitlines()) <= 60
    assert "import prefect" not in (ROOT / "flows/pipeline.py").read_text()
