"""The cache: a step, its key, its payload, and whether it is there."""
