"""A `slow` or `servers` test that fails is run once more, and named where it then passes.

Not one marked `never_rerun`: in a test of claims, locks, kills or the cache a flake is a race.
"""

from __future__ import annotations

import pytest


def rerun_once(items: list[pytest.Item]) -> None:
    """Mark those that pytest-rerunfailures may run a second time."""
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        if marks & {"slow", "servers"} and "never_rerun" not in marks:
            item.add_marker(pytest.mark.flaky(reruns=1))


def name_flaky(reporter: pytest.TerminalReporter) -> None:
    """Print each test that failed and then passed."""
    failed_once = {report.nodeid for report in reporter.stats.get("rerun", [])}
    passed = {report.nodeid for report in reporter.stats.get("passed", [])}
    for nodeid in sorted(failed_once & passed):
        reporter.write_line(f"FLAKY {nodeid}: give it a line in docs/LOG.md", yellow=True)
