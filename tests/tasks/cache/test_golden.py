"""Golden numbers: a change that moves what `smoke` computes is seen, and must bump a `VERSION`.

Where the move is meant, replace golden_smoke.json with what a failing run prints.
"""

import json
from pathlib import Path

import pytest

from ila_core.compare.results import Evaluation
from ila_core.config import RuntimeConfig
from ila_core.search.ranking import Ranking, order
from tasks.cache.lookup import open_lookup
from tasks.cache.payloads import fetch

GOLDEN = Path(__file__).with_name("golden_smoke.json")
# The same machine repeats every digit; others round differently (AVX2 against AVX-512, say), and
# training carries that on. A change that means something moves the losses by far more.
TOLERANCE = {"rel": 1e-3, "abs": 1e-4}


@pytest.fixture(scope="module")
def payloads(finished):
    """Payload folder of every step of the finished run, by label."""
    runtime = RuntimeConfig(home=finished.home, tracking_uri=f"sqlite:///{finished.home}/mlflow.db")
    lookup = open_lookup(runtime, "demo")
    steps = finished.json("run", "smoke")["steps"]
    return {label: fetch(lookup.finished(key)[0], finished.home) for label, key in steps.items()}


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_bytes())


def numbers(payloads):
    """What the main path came to, from data to held-out loss."""
    found = {}
    for label, folder in payloads.items():
        kind = label.split()[0]
        if kind == "prepare":
            prepared = read(folder, "prepared")
            found[label] = {"rows": prepared["rows"], "tokens": prepared["tokens"]}
        elif kind in ("stage1", "finetune"):
            found[label] = read(folder, kind)["losses"]
        elif kind in ("stage2", "score"):
            found[label] = read(folder, kind)["scores"]
        elif kind == "mask":
            curves = read(folder, kind)["count"]
            found[label] = {
                name: [point["loss"] for point in curve["points"]]
                for name, curve in {**curves["orders"], "random": curves["random"][0]}.items()
            }
        elif kind == "selection":
            found[label] = len(read(folder, kind)["frozen"])
        elif kind == "held_out_loss":
            found[label] = Evaluation.load(folder / "evaluation.json").value
    return found


def test_the_main_path_gives_its_golden_numbers(payloads):
    found, golden = numbers(payloads), json.loads(GOLDEN.read_bytes())
    assert set(found) == set(golden)
    moved = {label for label in golden if not close(found[label], golden[label])}
    assert not moved, f"{sorted(moved)} moved; found now:\n{json.dumps(found, indent=1)}"


def test_the_ranking_and_its_ends_are_the_golden_ones(payloads):
    golden = json.loads(GOLDEN.read_bytes())
    ranking = Ranking.load(payloads["ranking"] / "ranking.json")
    for dataset in ranking.datasets:
        scores = golden[f"stage2 {dataset} seed 0"]
        assert set(scores) == {layer.name for layer in ranking.layers}
        by_score = order(ranking.scores(dataset), ranking.layers)
        assert by_score[0] == max(scores, key=scores.get)
        assert by_score[-1] == min(scores, key=scores.get)


def close(found, golden):
    """Equal structure, numbers within the tolerance."""
    if isinstance(golden, dict):
        return found.keys() == golden.keys() and all(close(found[k], golden[k]) for k in golden)
    if isinstance(golden, list):
        return len(found) == len(golden) and all(map(close, found, golden))
    return found == pytest.approx(golden, **TOLERANCE)
