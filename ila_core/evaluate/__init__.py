"""Evaluation of one model: the benchmarks, and the code that they share."""
