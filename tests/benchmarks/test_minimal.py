"""The pipeline beside `benchmarks/minimal.py`, which has the method and nothing else."""

import ast
import importlib.util
import json
import math
import random
import sys

import pytest

from ila_core.config import StabilitySettings
from ila_core.search.ranking import Ranking, least
from ila_core.train.stability import is_stable
from tests.conftest import ROOT

FILE = ROOT / "benchmarks" / "minimal.py"
TOLERANCE = 1e-4
"""Of the scores' range. Found: 2e-7; a weight decay left out moves them by 9e-4."""
DATASETS = ("terse", "instruct", "dialogue")


@pytest.fixture(scope="module")
def minimal():
    spec = importlib.util.spec_from_file_location("minimal", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def payload(finished):
    """The parsed JSON file of the one payload that has it, and for which `wanted` holds."""

    def read(name, wanted=lambda _: True):
        files = finished.home.glob(f"artifacts/*/artifacts/payload/{name}.json")
        (found,) = (x for x in (json.loads(f.read_bytes()) for f in files) if wanted(x))
        return found

    return read


@pytest.fixture(scope="module")
def ranking(payload):
    return Ranking.model_validate(payload("ranking"))


def difference(ranking, dataset, found):
    """Largest difference of a score from the pipeline's, as a share of the pipeline's range."""
    theirs = ranking.scores(dataset)
    assert list(theirs) == list(found["scores"])
    span = max(theirs.values()) - min(theirs.values())
    return max(abs(theirs[name] - score) for name, score in found["scores"].items()) / span


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_pipeline_finds_what_the_minimal_loop_finds(
    finished, minimal, payload, ranking, dataset, capsys
):
    minimal.main(["--home", str(finished.home), "--dataset", dataset, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert difference(ranking, dataset, found) < TOLERANCE
    layers = ranking.layers
    assert set(found["frozen"]) == least(ranking.scores(dataset), layers, 1 - ranking.keep)
    assert len(found["frozen"]) == 11

    def same(losses):
        return losses["losses"] == pytest.approx(found["losses"], rel=1e-4)

    stage1 = payload("stage1", wanted=same)  # one of the three, and stopped at the same step
    assert stage1["stable"] == found["stable"] == ranking.stable[dataset]["0"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("SEED", 1), ("WARMUP_RATIO", 0.0), ("WEIGHT_DECAY", 0.0), ("GATE_LR", 4.0)],
)
def test_another_setting_is_seen(finished, minimal, ranking, monkeypatch, setting, value):
    monkeypatch.setattr(minimal, setting, value)
    found = minimal.identify_important_layers(finished.home, "terse")
    assert difference(ranking, "terse", found) > TOLERANCE


def test_both_call_the_same_losses_stable(minimal, monkeypatch):
    """In 8 steps training is stable at the last one at most, so the rule is compared by itself."""
    monkeypatch.setattr(minimal, "STEPS", 40)
    settings = StabilitySettings(
        epsilon=minimal.EPSILON,
        window=minimal.WINDOW,
        patience=minimal.PATIENCE,
        floor=minimal.FLOOR,
        ceiling=1.0,
    )
    rng = random.Random(0)
    ended = set()
    for _ in range(100):
        losses = [8 * math.exp(-step / 5) + rng.gauss(0, 0.4) for step in range(40)]
        said = [minimal.is_stable(losses[:n]) for n in range(1, 41)]
        assert said == [is_stable(losses[:n], settings, 40) for n in range(1, 41)]
        ended.add(said.index(True) if True in said else None)
    assert len(ended) > 5


def test_a_home_without_the_rows_is_named(minimal, tmp_path):
    with pytest.raises(SystemExit, match="holds 0 preparations of the dataset 'terse'"):
        minimal.main(["--home", str(tmp_path)])


def test_it_is_short_and_imports_nothing_of_ila():
    source = FILE.read_text()
    assert len(source.splitlines()) <= 200
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    packages = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names
    assert packages == {"torch", "transformers", "peft", "safetensors"}
