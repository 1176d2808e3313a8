"""`ila control`: check that layers with planted noise come out at the bottom of the ranking."""

import sys
from collections.abc import Sequence

from flows.actions.run import finished
from flows.plan.refresh import Refresh
from flows.results.profile_plan import plan_profile
from flows.views.run import show_control
from ila_core.config.load import Given
from tasks.cache.payloads import fetch, read_json

CONFIDENCE, RESAMPLES = 0.95, 10_000


def run_control(
    given: Given, overrides: Sequence[str], refresh: Refresh, *, min_auc: float, as_json: bool
) -> None:
    """Run the positive control of a profile and show its AUC; exit with 3 below `min_auc`."""
    from ila_core.search.control import control_result

    planned = plan_profile(given, overrides, online=True, until="control")
    runs = finished(planned, "control", refresh)
    aucs: dict[str, dict[int, float]] = {}
    for step in planned.pipeline.controls:
        names = step.given["names"]
        found = read_json(fetch(runs[str(step.key)]) / "control.json")
        aucs.setdefault(names["dataset"], {})[names["draw"]] = found["auc"]
    results = {
        dataset: control_result(of_draw, confidence=CONFIDENCE, resamples=RESAMPLES, seed=0)
        for dataset, of_draw in aucs.items()
    }
    show_control(results, planned.profile.search, min_auc=min_auc, as_json=as_json)
    if any(result.mean < min_auc for result in results.values()):
        sys.exit(3)
