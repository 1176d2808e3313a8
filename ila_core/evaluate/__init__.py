"""How a model is measured: what benchmarks share."""
