"""Theorem 2.1 along a real stage 1: how far one gate step moves, beside its bound.

    python benchmarks/theorem.py            # stories3m-real, dolly: needs ILA_REAL_DATA
    python benchmarks/theorem.py --quick    # demo

Pairs of neighbouring steps at a few places of the schedule, all on the same rows.

    |gamma'_t - gamma'_(t+1)| <= b (Q L2 + L1) |theta_t - theta_(t+1)|     (Eq. 24)
                              <= b (Q L2 + L1) R eps                       (Eq. 11)

theta is the update (beta B A of all layers as one vector, Frobenius norm), b the gate learning
rate, gamma' one plain gradient step from the same gates. Q, L1, L2 and R are suprema that nobody
can measure; here each is the largest value among the snapshots, so a lower bound of the constant.

What it says: how loose the bound is, whether it falls as training settles, and which term carries
it. What it does not: with constants taken from the same snapshots the inequality holds by
construction (Cauchy and Schwarz), so that it holds is no evidence for the assumptions; and the
theorem is about one gate step, not about the ranking after many of them (Fig. 2 is).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from record import Tolerance, recorded
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerState

from ila_core.config import Frozen
from ila_core.config.load import load_profile
from ila_core.data import Dataset
from ila_core.data.batches import Row, planned_steps
from ila_core.data.chat_template import Renderer
from ila_core.data.tokenize import prepare
from ila_core.errors import CheckError, listed
from ila_core.models.loading import load_base, load_tokenizer
from ila_core.search.scoring import backward, trainable_alone
from ila_core.train.loop import train
from ila_core.train.methods import METHODS

PLACES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.98)
"""Fractions of the schedule."""
GAMMA, GATE_LR, ROWS = 0.5, 5.0, 48
TOLERANCE: Tolerance = {"*.step": (0.0, 0.0), "*.of": (0.0, 0.0), "*": (0.05, 0.0)}


@dataclass(frozen=True)
class Snapshot:
    """One step of stage 1. Both by layer, (out_features, in_features), as large as the base."""

    updates: Mapping[str, Tensor]
    """beta B A."""
    gradients: Mapping[str, Tensor]
    """Gradient of the loss by the layer's weight, with all gates at one gamma."""

    @property
    def gate_gradient(self) -> dict[str, float]:
        """dL/dgamma of each layer: <beta B A, dL/dW>, the chain rule on Eq. 5."""
        return {name: float((u * self.gradients[name]).sum()) for name, u in self.updates.items()}


class StepBound(Frozen):
    moved: float
    """|gamma'_t - gamma'_(t+1)|."""
    update_moved: float
    """|theta_t - theta_(t+1)|."""
    bound: float
    """Right side of Eq. 24."""


class TheoremCheck(Frozen):
    steps: tuple[StepBound, ...]
    """One per pair of consecutive snapshots."""
    q: float
    """Largest |theta_t|."""
    l1: float
    """Largest |dL/dtheta|."""
    l2: float
    """Largest change of that gradient per change of the masked update."""
    bound: float
    """Right side of Eq. 11, R eps being the largest |theta_t - theta_(t+1)|."""


def snapshot(model: Any, rows: Sequence[Row], *, gamma: float, micro_batch: int) -> Snapshot:
    """The update and the loss's gradient at `gamma`, on rows that every snapshot should share.

    For small models: it differentiates by the base weights themselves. Those of tied embeddings
    would have the embedding's gradient mixed in, so untie them first.

    Args:
        model: the base with the adapter of this step on it; it comes back as it was.
        gamma: of all gates; 0.5 is where gate learning starts.

    Raises:
        CheckError: a quantised base weight, which has no gradient.
    """
    from ila_core.train.loss import TokenLoss, eval_mode
    from ila_core.train.methods.lora import lora_layers

    layers = lora_layers(model)
    weights = {name: layer.base_layer.weight for name, layer in layers.items()}
    quantised = [name for name, weight in weights.items() if not weight.is_floating_point()]
    if quantised:
        raise CheckError(
            f"{listed(quantised)}: quantised weights have no gradient; load the base unquantised"
        )
    updates = {name: x.get_delta_weight("default").detach().double() for name, x in layers.items()}
    scalings = {name: layer.scaling["default"] for name, layer in layers.items()}
    try:
        for name, layer in layers.items():
            layer.scaling["default"] = gamma * scalings[name]
        with trainable_alone(model, list(weights.values())), eval_mode(model):
            backward(model, TokenLoss(model), rows, micro_batch)
            gradients = {name: weight.grad.double() for name, weight in weights.items()}
    finally:
        for name, layer in layers.items():
            layer.scaling["default"] = scalings[name]
    return Snapshot(updates=updates, gradients=gradients)


def check_theorem(snapshots: Sequence[Snapshot], *, gamma: float, gate_lr: float) -> TheoremCheck:
    """Both sides of Eq. 24 for each pair of consecutive snapshots, and the right side of Eq. 11.

    Raises:
        CheckError: fewer than two snapshots, or two between which nothing moved.
    """
    if len(snapshots) < 2:
        raise CheckError(f"{len(snapshots)} snapshots: two steps of stage 1 are needed at least")
    moved = [
        math.dist(list(a.gate_gradient.values()), list(b.gate_gradient.values()))
        for a, b in pairwise(snapshots)
    ]
    updates = [_norm(a.updates, b.updates) for a, b in pairwise(snapshots)]
    if not all(updates):
        raise CheckError(
            "the adapter did not change between two snapshots; take them further apart"
        )
    slopes = [
        _norm(a.gradients, b.gradients) / (gamma * far)
        for (a, b), far in zip(pairwise(snapshots), updates, strict=True)
    ]
    q = max(_norm(s.updates) for s in snapshots)
    l1 = max(_norm(s.gradients) for s in snapshots)
    l2 = max(slopes)
    factor = gate_lr * (q * l2 + l1)
    return TheoremCheck(
        steps=tuple(
            StepBound(moved=gate_lr * m, update_moved=far, bound=factor * far)
            for m, far in zip(moved, updates, strict=True)
        ),
        q=q,
        l1=l1,
        l2=l2,
        bound=factor * max(updates),
    )


def _norm(a: Mapping[str, Tensor], minus: Mapping[str, Tensor] | None = None) -> float:
    """Frobenius norm over all layers together."""
    parts = a.values() if minus is None else (a[name] - minus[name] for name in a)
    return math.hypot(*(float(part.norm()) for part in parts))


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
        Dataset(profile.dataset(dataset), None),
        Renderer(load_tokenizer(profile.model), profile.model.template),
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
