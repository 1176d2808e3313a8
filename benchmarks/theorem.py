"""Theorem 2.1 along a real stage 1: how far one gate step moves, beside its bound.

    python benchmarks/theorem.py            # stories3m-real, dolly: needs ILA_REAL_DATA
    python benchmarks/theorem.py --quick    # demo

Pairs of neighbouring steps at a few places of the schedule, all on the same rows. What the numbers
can and cannot say is in `benchmarks/theorem_terms.py` and docs/METHOD.md.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from record import Tolerance, recorded
from theorem_terms import Snapshot, check_theorem, snapshot
from torch import nn
from transformers import TrainerCallback, TrainerState

from ila_core.config.load import load_profile
from ila_core.data import load_dataset
from ila_core.data.batches import planned_steps
from ila_core.data.tokenize import prepare
from ila_core.models.loading import load_base, load_tokenizer
from ila_core.train.loop import train
from ila_core.train.methods import METHODS

PLACES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.98)
"""Fractions of the schedule."""
GAMMA, GATE_LR, ROWS = 0.5, 5.0, 48
TOLERANCE: Tolerance = {"*.step": (0.0, 0.0), "*.of": (0.0, 0.0), "*": (0.05, 0.0)}


class Pairs(TrainerCallback):  # type: ignore[misc]
    """Snapshots of both steps of every pair."""

    def __init__(self, rows: Any, at: list[int]) -> None:
        self._rows, self._at = rows, {step for first in at for step in (first, first + 1)}
        self.found: dict[int, Snapshot] = {}

    def on_step_end(
        self, args: Any, state: TrainerState, control: Any, model: Any, **_: Any
    ) -> None:
        if state.global_step in self._at:
            self.found[state.global_step] = snapshot(model, self._rows, gamma=GAMMA, micro_batch=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="demo instead of stories3m-real")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    given = parser.parse_args()
    name, dataset = ("demo", "instruct") if given.quick else ("stories3m-real", "dolly")
    profile = load_profile(name)
    schedule, settings = profile.search.schedules[dataset], profile.search.stage1
    rows = prepare(
        load_dataset(profile.dataset(dataset), None),
        load_tokenizer(profile.model),
        profile.model.template,
        profile.data,
        dataset=dataset,
    ).splits
    base = load_base(profile.model, "cpu")
    linears = [name for name, module in base.named_modules() if isinstance(module, nn.Linear)]
    total = planned_steps(schedule, len(rows["train"]), settings.optimizer.batch_size)
    at = [max(2, min(total - 1, round(place * total))) for place in PLACES]
    watch = Pairs(rows["train"][:ROWS], at)
    model = METHODS["lora"].attach(base, linears, settings.lora, seed=0)
    train(
        model, rows["train"], schedule=schedule, optimizer=settings.optimizer, seed=0,
        callbacks=[watch],
    )  # fmt: skip
    found = []
    for step in at:
        checked = check_theorem(
            [watch.found[step], watch.found[step + 1]], gamma=GAMMA, gate_lr=GATE_LR
        )
        pair = checked.steps[0]
        found.append(
            {
                "step": step,
                "of": total,
                "gates moved": pair.moved,
                "bound": pair.bound,
                "bound over moved": pair.bound / pair.moved,
                "update moved": pair.update_moved,
                "Q": checked.q,
                "L1": checked.l1,
                "L2": checked.l2,
            }
        )
    if given.json:
        result = {"profile": name, "dataset": dataset, "pairs": found}
        print(json.dumps(recorded(result, TOLERANCE), indent=1))
        return
    import pandas as pd

    print(pd.DataFrame(found).to_string(index=False, float_format="{:.4g}".format))


if __name__ == "__main__":
    main()
