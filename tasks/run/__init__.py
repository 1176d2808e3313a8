"""Runs one step: as a Prefect task, in a child, on a GPU of its own."""
