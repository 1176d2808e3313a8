"""The parts of benchmarks/gpu.py: each measures its rows by `Bench.row`."""
