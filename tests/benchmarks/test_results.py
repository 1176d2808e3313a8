"""What benchmarks measured carries its machine and a tolerance, and is compared by that."""

import importlib.util
import json
import socket
import sys

import pytest

from tests.conftest import ROOT

BENCHMARKS = ROOT / "benchmarks"
RESULTS = sorted((BENCHMARKS / "results").glob("*.json"))
PARTS = {"processor", "cores", "torch", "threads"}


def load(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def record():
    return load("record")


@pytest.fixture
def moved(monkeypatch, record):
    monkeypatch.setitem(sys.modules, "record", record)  # beside it, when it is run as a script
    return load("moved")


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_committed_result_has_machine_and_tolerance(path, record):
    result = json.loads(path.read_text())
    machine = result["machine"]
    assert machine == record.NOT_RECORDED or machine.keys() >= PARTS
    for number in record.numbers(result):
        relative, absolute = record.tolerance_of(number, result["tolerance"])
        assert 0 <= relative <= 1 and 0 <= absolute < float("inf")


def test_there_are_results():
    assert len(RESULTS) >= 10


def test_a_new_result_says_what_it_ran_on_and_not_whose_machine_it_is(record):
    found = record.recorded({"ratio": 0.5}, {"*": (0.1, 0.0)})
    assert list(found) == ["machine", "tolerance", "ratio"]
    assert found["machine"].keys() >= PARTS
    assert all(found["machine"][part] for part in PARTS)
    assert socket.gethostname() not in json.dumps(found).split('"')


def test_every_benchmark_that_prints_a_result_records_them():
    texts = {path.name: path.read_text() for path in BENCHMARKS.glob("*.py")}
    del texts["minimal.py"]  # scores, which a test holds to the pipeline's
    del texts["counts.py"]  # lines and files, whatever the machine
    printing = {name for name, text in texts.items() if '"--json"' in text}
    assert printing == {name for name, text in texts.items() if "json.dumps(recorded(" in text}
    assert len(printing) >= 8


OLD = {
    "machine": "not recorded",
    "tolerance": {"*ms": [0.5, 0.0], "*difference": [0.0, 0.02], "*": [0.1, 0.0]},
    "ms": 10,
    "ratio": 1.0,
    "rows": [{"difference": 0.001}, {"difference": -0.5}],
    "name": "x",
}


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({}, []),
        ({"ms": 14, "ratio": 1.05, "name": "y"}, []),
        ({"rows": [{"difference": -0.015}, {"difference": -0.49}]}, []),
        ({"ms": 25}, ["ms: 10 -> 25, by 15 (12.5 allowed)"]),
        ({"ratio": 1.2}, ["ratio: 1 -> 1.2, by 0.2 (0.12 allowed)"]),
        ({"more": 3}, ["more: new, 3"]),
        (
            {"rows": [{"difference": 0.1}]},
            [
                "rows.0.difference: 0.001 -> 0.1, by 0.099 (0.02 allowed)",
                "rows.1.difference: -0.5 -> gone",
            ],
        ),
    ],
)
def test_what_moved_beyond_its_tolerance_is_printed(moved, tmp_path, capsys, change, lines):
    for name, result in (("old", OLD), ("new", {**OLD, **change})):
        (tmp_path / name).write_text(json.dumps(result))
    with pytest.raises(SystemExit) as ended:
        moved.main([str(tmp_path / "old"), str(tmp_path / "new")])
    printed = capsys.readouterr().out.splitlines()
    assert printed == (lines or ["none of 4 numbers moved beyond its tolerance"])
    assert ended.value.code == (3 if lines else 0)


def test_another_machine_is_said(moved, tmp_path, capsys):
    for name, machine in (("old", "not recorded"), ("new", {"cores": 2, "load_average": 1})):
        (tmp_path / name).write_text(json.dumps({**OLD, "machine": machine}))
    with pytest.raises(SystemExit):
        moved.main([str(tmp_path / "old"), str(tmp_path / "new")])
    assert "machines: not recorded and {'cores': 2}" in capsys.readouterr().out


def test_a_number_without_a_tolerance_is_an_error(record):
    with pytest.raises(KeyError, match="no tolerance is given for ratio"):
        record.tolerance_of("ratio", {"*ms": (0.1, 0.0)})
