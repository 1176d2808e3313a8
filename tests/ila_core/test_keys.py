"""Keys: one canonical form, equal in every process, refused for what has none."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ila_core.config import OptimizerSettings
from ila_core.keys import canonical, key_of


def test_one_form_for_equal_values():
    assert canonical({"b": 1.0, "a": (2, [3])}) == canonical({"a": [2, [3]], "b": 1})
    assert key_of({"a": 1}) != key_of({"a": "1"})


@pytest.mark.parametrize("value", [{1}, math.nan, math.inf, {1: 2}, Path("."), object()])
def test_what_has_no_canonical_form_is_refused(value):
    with pytest.raises(TypeError, match="no canonical form"):
        canonical(value)


def test_a_new_option_at_its_default_does_not_change_the_key():
    written = OptimizerSettings(batch_size=4, weight_decay=0.1, warmup_ratio=0, max_grad_norm=1)
    assert written.beta1 == 0.9
    assert key_of(written) == key_of(written.model_copy(update={"beta1": 0.9}))
    assert key_of(written) != key_of(written.model_copy(update={"beta1": 0.8}))


def test_equal_in_processes_with_other_hash_seeds():
    code = "from ila_core.keys import key_of; print(key_of({'x': ['b', 'a'], 'y': {'q': 1}}))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4711")
    }
    assert outputs == {key_of({"x": ["b", "a"], "y": {"q": 1}}) + "\n"}
