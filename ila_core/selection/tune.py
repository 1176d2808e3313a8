"""The trials of a hyper-parameter search, and which of them is chosen: on held-out loss alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import yaml

from ila_core.config import Frozen, MethodSettings, Schedule, TuneGrid

if TYPE_CHECKING:
    import pandas as pd


class TrialResult(Frozen):
    """One point of a grid, trained under every seed."""

    arm: str
    method: str
    lr: float
    epochs: float | None
    steps: int | None
    losses: dict[str, float]
    """Token mean of the held-out loss at the end by seed; none where a seed diverged."""
    best_step: str | None
    """The step of lowest loss, seeds averaged, among those measured: `45 of 60`."""
    seconds: float | None
    """Seconds of training, mean over seeds."""

    @property
    def diverged(self) -> bool:
        return not self.losses

    @property
    def loss(self) -> float | None:
        return fmean(self.losses.values()) if self.losses else None

    @property
    def spread(self) -> float | None:
        """The highest seed's loss minus the lowest's, where there are several seeds."""
        values = self.losses.values()
        return max(values) - min(values) if len(values) > 1 else None

    @property
    def point(self) -> tuple[float, float]:
        return self.lr, self.epochs or self.steps or 0


def length(schedule: Schedule | TrialResult) -> str:
    """`3 epochs` or `200 steps`."""
    if schedule.epochs is not None:
        return f"{schedule.epochs:g} epochs"
    return f"{schedule.steps} steps"


def trial_result(
    arm: str,
    method: str,
    settings: MethodSettings,
    evaluations: Mapping[int, float],
    finetunes: Sequence[Mapping[str, Any]],
) -> TrialResult:
    """Make a trial of its steps' results; a trial without results diverged."""
    losses = {str(seed): loss for seed, loss in evaluations.items()}
    best = None
    if losses:
        watched: dict[int, list[float]] = {}
        for result in finetunes:
            for found in result["watched"]:
                watched.setdefault(found["step"], []).append(found["loss"])
        steps = finetunes[0]["steps"]
        means = {step: fmean(found) for step, found in watched.items()}
        means[steps] = fmean(losses.values())
        best = f"{min(means, key=means.__getitem__)} of {steps}"
    return TrialResult(
        arm=arm,
        method=method,
        lr=settings.lr,
        epochs=settings.epochs,
        steps=settings.steps,
        losses=losses,
        best_step=best,
        seconds=fmean(f["seconds"] for f in finetunes) if losses else None,
    )


def choose(results: Sequence[TrialResult]) -> dict[str, TrialResult]:
    """Choose each arm's trial of lowest held-out loss; arms that diverged in all are left out."""
    chosen: dict[str, TrialResult] = {}
    for result in results:
        best = chosen.get(result.arm)
        if result.loss is not None and (best is None or result.loss < (best.loss or 0.0)):
            chosen[result.arm] = result
    return chosen


def doubts(chosen: TrialResult, results: Sequence[TrialResult], grid: TuneGrid) -> list[str]:
    """List the caveats of a choice."""
    assert chosen.loss is not None
    others = [r for r in results if r.arm == chosen.arm and r is not chosen]
    said = []
    if chosen.spread is not None:
        near = [r for r in others if r.loss is not None and r.loss - chosen.loss < chosen.spread]
        if near:
            by = f"what its own seeds differ by ({chosen.spread:.4f})"
            said.append(f"{len(near)} of {len(others)} other trials lie within {by}")
    lengths = grid.epochs or grid.steps
    for what, value, tried in (("lr", chosen.lr, grid.lr), ("length", chosen.point[1], lengths)):
        if len(tried) > 1 and value in (min(tried), max(tried)):
            end = "lowest" if value == min(tried) else "highest"
            said.append(f"its {what} is the {end} that was tried: a wider grid may do better")
    return said


def overrides(chosen: TrialResult, settings: MethodSettings) -> list[str]:
    """Return the `--set` values that give the profile the chosen point.

    Args:
        settings: of the method in the profile as it is.
    """
    fields: dict[str, float | int | None] = {"lr": chosen.lr}
    for field in ("epochs", "steps"):
        value = getattr(chosen, field)
        if value is not None or getattr(settings, field) is not None:
            fields[field] = value
    # YAML 1.1 reads 1e-05 as text and 1.0e-05 as a number.
    written = {field: yaml.safe_dump(value).split()[0] for field, value in fields.items()}
    return [f"finetune.{chosen.method}.{field}={value}" for field, value in written.items()]


def trials_table(results: Sequence[TrialResult], chosen: Mapping[str, TrialResult]) -> pd.DataFrame:
    """Tabulate all trials, the best first and those that diverged last."""
    import pandas as pd

    ordered = sorted(results, key=lambda r: (r.diverged, r.loss or 0.0))
    return pd.DataFrame(
        {
            "arm": r.arm,
            "method": r.method,
            "lr": f"{r.lr:g}",
            "length": length(r),
            "held-out loss": r.loss,
            "seeds differ by": r.spread,
            "best step": r.best_step,
            "time": r.seconds,
            "": "diverged" if r.diverged else "chosen" if r is chosen.get(r.arm) else "",
        }
        for r in ordered
    )
