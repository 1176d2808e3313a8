"""How much a ranking depends on what the paper leaves open: one table, one setting changed a row.

    python benchmarks/sensitivity.py                            # demo, two search seeds
    python benchmarks/sensitivity.py --profile stories3m-real   # longer; needs ILA_REAL_DATA
    python benchmarks/sensitivity.py --json > benchmarks/results/sensitivity.json

The rows are the paper's method (gates on stage 1's own rows) with the profile's model, data and
schedule; the last two are other scorers. A search is cached steps: stopped, it goes on, and a new
row adds only itself.
"""

from __future__ import annotations

import argparse
import json
from statistics import fmean
from typing import Any

from record import Tolerance, recorded

from flows.actions.run import finished
from flows.results.profile_plan import plan_profile
from ila_core.search.agreement import agreements, compare
from ila_core.search.mask_curve import MaskCurves
from ila_core.search.ranking import Ranking
from tasks.cache.payloads import fetch, read_json

# One layer more or less of the 11 frozen moves a Jaccard by 0.06.
TOLERANCE: Tolerance = {"*": (0.0, 0.06)}
BASE = (
    "search.scorer=ila",
    "search.stage2.rows=train",
    "search.stage1.ranking_stop=null",
    "search.evidence.scorers=[]",
)
VARIANTS: dict[str, tuple[str, ...]] = {
    "as it is": (),
    "initial score -2": ("search.stage2.initial_score=-2.0",),
    "initial score 2": ("search.stage2.initial_score=2.0",),
    "initial score 4": ("search.stage2.initial_score=4.0",),
    "gate learning rate / 5": ("search.stage2.lr=1.0",),
    "gate learning rate x 5": ("search.stage2.lr=25.0",),
    "gates by Adam, 0.05": ("search.stage2.optimizer=adam", "search.stage2.lr=0.05"),
    "8 gate batches": ("search.stage2.batches=8",),
    "32 gate batches": ("search.stage2.batches=32",),
    "128 gate batches": ("search.stage2.batches=128",),
    "gates on rows held back": ("search.stage2.rows=gate",),
    "LoRA alpha / 4": ("search.stage1.lora.alpha=4",),
    "LoRA alpha x 4": ("search.stage1.lora.alpha=64",),
    "LoRA rank 2": ("search.stage1.lora.r=2", "search.stage1.lora.alpha=4"),
    "LoRA rank 32": ("search.stage1.lora.r=32", "search.stage1.lora.alpha=64"),
    "epsilon x 10": ("search.stage1.stability.epsilon=0.2",),
    "whole schedule": ("search.stage1.stability.floor=1.0", "search.stage1.stability.ceiling=1.0"),
    "gradient at half open": ("search.scorer=gate_gradient", "search.scoring.rows=train"),
    "integrated gradients": ("search.scorer=integrated_gradients", "search.scoring.rows=train"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), help="these rows")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="for all rows")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    given = parser.parse_args()
    names = given.only or list(VARIANTS)
    reference: Ranking | None = None
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(["as it is", *names]):
        ranking, heights, keep = search(given.profile, [*BASE, *given.set, *VARIANTS[name]])
        reference = reference or ranking
        rows.append({"changed": name, **summary(ranking, heights, keep, reference)})
    if given.json:
        result = {"profile": given.profile, "set": given.set, "rows": rows}
        print(json.dumps(recorded(result, TOLERANCE), indent=1))
        return
    import pandas as pd

    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3f}".format))


def search(profile: str, overrides: list[str]) -> tuple[Ranking, list[float], float]:
    """The ranking, the mean height of each dataset's mask curve under random orders, and keep."""
    planned = plan_profile(profile, overrides, online=True, until="evidence")
    runs = finished(planned, "evidence")
    scorer, keep = planned.profile.search.scorer, planned.profile.search.keep
    masks = [step for step in planned.pipeline.evidence if step.name == "mask"]
    found = [read_json(fetch(runs[str(step.key)]) / "mask.json")["count"] for step in masks]
    heights = [MaskCurves.model_validate(curves).area(scorer).height for curves in found]
    ranking = Ranking.load(fetch(runs[str(planned.pipeline.ranking.key)]) / "ranking.json")
    return ranking, heights, keep


def summary(
    ranking: Ranking, heights: list[float], keep: float, reference: Ranking
) -> dict[str, float]:
    """Jaccard between datasets, between search seeds and with the first row, and the heights."""
    found = agreements(ranking, keep)
    with_reference = [
        compare(
            ranking.layers, keep, kind="datasets", a=("a", ranking.scores(d)),
            b=("b", reference.scores(d)),
        ).jaccard
        for d in ranking.datasets
    ]  # fmt: skip
    of_kind = {kind: [x for x in found if x.kind == kind] for kind in ("datasets", "seeds", "size")}
    return {
        "datasets": fmean(x.jaccard for x in of_kind["datasets"]),
        "worst": min(x.jaccard for x in of_kind["datasets"]),
        "in types": fmean(x.chance_within_types_jaccard for x in of_kind["datasets"]),
        "seeds": fmean(x.jaccard for x in of_kind["seeds"]) if of_kind["seeds"] else float("nan"),
        "size": fmean(x.jaccard for x in of_kind["size"]),
        "with first row": fmean(with_reference),
        "above random": fmean(heights),
        "worst above random": min(heights),
    }


if __name__ == "__main__":
    main()
