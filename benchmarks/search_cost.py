"""What a ranking costs beside the paper's whole recipe, and how far the two agree.

    python benchmarks/search_cost.py                   # stories3m-real: needs ILA_REAL_DATA
    python benchmarks/search_cost.py --quick --json    # demo, on the schedule of QUICK_SCHEDULE

The whole recipe (`flows/plan/paper_recipe.py`) is the profile's whole stage-1 schedule and
its gate batches on stage 1's rows; ours is the profile as it is. Both are cached steps: stopped, it
goes on; again, it computes nothing. Cost is in tokens read forward and backward, a forward pass
alone counting 1/3, whatever hardware does with them; probes on the way are counted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from record import Tolerance, recorded

from flows.actions.run import finished
from flows.results.profile_plan import ProfilePlan, plan_profile
from ila_core.data.batches import plan_batches
from ila_core.data.prepared import Prepared
from ila_core.search.agreement import Agreement, compare
from ila_core.search.mask_curve import MaskCurves
from ila_core.search.scorers import ILA
from tasks.cache.payloads import fetch, read_json
from tasks.cache.step import Step
from tasks.cache.step_run import StepRun

# One layer more or less of the 11 frozen moves a Jaccard by 0.06.
TOLERANCE: Tolerance = {"*cost*": (0.02, 0.0), "*full": (0.02, 0.0), "*": (0.0, 0.06)}
QUICK, LONG = "demo", "stories3m-real"
QUICK_SCHEDULE = [
    "search.seeds=[0]",
    *(f"search.schedules.{name}.steps=60" for name in ("terse", "instruct", "dialogue")),
    "search.stage1.optimizer.batch_size=8",
    "search.stage1.ranking_stop.scoring.batch_size=8",
    "search.stage2.batch_size=2",
    "search.evidence.held_out=8",
]
"""One seed, 60 steps of 160, batches of 8 and 2 conversations where they are of 16, mask curves on
8 where it is 32: for ten minutes on two cores."""


class Found:
    """The payloads of both searches."""

    def __init__(self, profile: str, overrides: list[str]) -> None:
        until = "search+comparison"
        self.planned: ProfilePlan = plan_profile(profile, overrides, online=True, until=until)
        self._runs: Mapping[str, StepRun] = finished(self.planned, until)

    def folder(self, step: Step) -> Path:
        return fetch(self._runs[str(step.key)])

    def json(self, step: Step) -> dict[str, Any]:
        found: dict[str, Any] = read_json(self.folder(step) / f"{step.name}.json")
        return found

    def compare(self, a: dict[str, float], b: dict[str, float]) -> Agreement:
        layers, keep = self.planned.pipeline.base.layers, self.planned.profile.search.keep
        return compare(layers, keep, kind="datasets", a=("a", a), b=("b", b))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--quick", action="store_true", help=f"{QUICK} on a short schedule")
    which.add_argument("--profile", default=LONG, help=f"default: {LONG}")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    given = parser.parse_args()
    profile, overrides = given.profile, given.set
    if given.quick:
        profile, overrides = QUICK, QUICK_SCHEDULE + given.set
    found = Found(profile, overrides)
    rows = [of_dataset(found, name) for name in found.planned.profile.search.schedules]
    answer = {
        "profile": profile,
        "set": overrides,
        "cost_share_of_full_search": sum(r["cost"] for r in rows) / sum(r["full"] for r in rows),
        "agreement_with_full_search": fmean(r["agreement"] for r in rows),
        "worst_agreement": min(r["worst"] for r in rows),
        "kappa": fmean(r["kappa"] for r in rows),
        "datasets": rows,
    }
    if given.json:
        print(json.dumps(recorded(answer, TOLERANCE), indent=1))
        return
    import pandas as pd

    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3f}".format))
    for key in (
        "cost_share_of_full_search",
        "agreement_with_full_search",
        "worst_agreement",
        "kappa",
    ):
        print(f"{key:28} {answer[key]:.3f}")


def of_dataset(found: Found, dataset: str) -> dict[str, Any]:
    """Cost and agreement on one dataset, means over search seeds."""
    pipeline, search = found.planned.pipeline, found.planned.profile.search
    study = pipeline.study
    agreed, costs, fulls, steps = [], [], [], []
    for seed in search.seeds:
        own, full = pipeline.scores[dataset][seed], study.scores[dataset][seed]
        agreed.append(found.compare(found.json(own)["scores"], found.json(full)["scores"]))
        costs.append(cost(found, own, seed))
        fulls.append(cost(found, full, seed))
        steps.append(found.json(own.inputs["adapter"])["steps"])
    gate_seeds, search_seeds = (
        [found.json(step)["scores"] for step in of_seed[dataset].values()]
        for of_seed in (study.gate_seeds, study.scores)
    )
    mask = found.json(study.masks[dataset])
    heights = {
        (by, name): MaskCurves.model_validate(mask[by]).area(name).height
        for by in ("count", "share")
        for name in ("own", ILA)
    }
    return {
        "dataset": dataset,
        "stage-1 steps": fmean(steps),
        "cost": fmean(costs),
        "full": fmean(fulls),
        "share": fmean(costs) / fmean(fulls),
        "agreement": fmean(x.jaccard for x in agreed),
        "worst": min(x.jaccard for x in agreed),
        "kappa": fmean(x.kappa or 0.0 for x in agreed),
        "full, gate seeds": _mean_agreement(found, gate_seeds),
        "full, search seeds": _mean_agreement(found, search_seeds),
        "above random": heights["count", "own"],
        "full, above random": heights["count", ILA],
        "by weights": heights["share", "own"],
        "full, by weights": heights["share", ILA],
    }


def cost(found: Found, scores: Step, seed: int) -> float:
    """Tokens that a score step and the stage 1 behind it read, forward and backward."""
    adapter = scores.inputs["adapter"]
    stage1 = found.json(adapter)
    data = Prepared.load(found.folder(adapter.inputs["data"])).splits
    total = sum(probe["cost_tokens"] for probe in stage1["probes"])
    batch = adapter.given["search"].stage1.optimizer.batch_size
    total += _tokens(data["train"], batch, stage1["steps"], seed)
    result = found.json(scores)
    if "cost_tokens" in result:
        return float(total + result["cost_tokens"])
    gates = scores.given["settings"]
    return float(total + _tokens(data[gates.rows], gates.batch_size, gates.batches, seed))


def _tokens(rows: Any, batch_size: int, steps: int, seed: int) -> int:
    batches = plan_batches(len(rows), batch_size, steps, seed)
    return sum(len(rows[i].input_ids) for numbers in batches for i in numbers)


def _mean_agreement(found: Found, columns: list[dict[str, float]]) -> float | None:
    pairs = [found.compare(a, b).jaccard for a, b in combinations(columns, 2)]
    return fmean(pairs) if pairs else None


if __name__ == "__main__":
    main()
