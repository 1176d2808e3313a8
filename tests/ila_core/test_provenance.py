import json
import random
import subprocess
import sys

import numpy as np
import torch

from ila_core.provenance import provenance, seeded


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def test_seeded_is_repeatable_and_leaves_no_trace():
    with seeded(1):
        outside = draw()
    with seeded(1):
        first = draw()
        with seeded(7):
            inner = draw()
        second = draw()
    with seeded(1):
        assert (draw(), draw()) == (first, second)
    with seeded(7):
        assert draw() == inner
    assert outside == first != inner


def test_provenance_is_json_and_imports_nothing_heavy():
    code = (
        "import sys, json; from ila_core.provenance import provenance; print(json.dumps("
        "[provenance(), [m for m in ('torch', 'numpy', 'transformers') if m in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found, heavy = json.loads(done.stdout)
    assert heavy == []
    assert found["libraries"]["torch"] and found["python"] and found["cores"]
    assert provenance()["threads"] == torch.get_num_threads()
