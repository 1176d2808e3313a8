"""The benchmark that needs a GPU, where there is none: its code path at a tiny size."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("four_bit", [False, True])
def test_gpu_benchmark_at_a_tiny_size(monkeypatch, four_bit):
    if four_bit:
        pytest.importorskip("bitsandbytes")
    monkeypatch.syspath_prepend(FOLDER)
    import gpu

    result = gpu.measure("tiny", "cpu", four_bit=four_bit, iterations=2)
    for stage in ("stage1", "stage2"):
        assert result[stage]["ms_per_iteration"] > 0
        assert result[stage]["model_flops_utilisation"] is None  # no peak is known of a CPU
