"""Stage 1: LoRA on every layer until the loss is epsilon-stable (Algorithm 1, first half)."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import TrainerCallback, TrainerState

from ila_core.config import Schedule, Stage1Settings
from ila_core.config.base import FrozenResult
from ila_core.data.batches import Row, planned_steps
from ila_core.search.ranking_stop import Probe, RankingStop
from ila_core.train.contract import Verification
from ila_core.train.loop import TrainRuntime
from ila_core.train.methods.lora import save_adapter
from ila_core.train.selected import train_selected


class Stage1Result(FrozenResult):
    """The contents of `stage1.json` without the dataset."""

    seed: int
    losses: list[float]
    guessing: float | None = None
    """The loss of guessing: a first loss far above it is that of another model's tokenizer."""
    steps: int
    planned_steps: int
    stable: bool
    """Whether one of the two rules stopped it, or held when the schedule ended."""
    stable_by: Literal["loss", "ranking"] | None
    stable_at: int | None
    probes: list[Probe]
    """The ranking on the way, where `ranking_stop` asked for it."""
    seconds: float
    peak_memory_bytes: int | None
    trainable_parameters: int
    verification: Verification


def learn_adapter(
    base: Any,
    layers: Sequence[str],
    rows: Sequence[Row],
    settings: Stage1Settings,
    schedule: Schedule,
    *,
    seed: int,
    adapter_folder: Path,
    ranking_stop: RankingStop | None = None,
    base_name: str | None = None,
    runtime: TrainRuntime | None = None,
) -> Stage1Result:
    """Train an adapter on `layers` and save it to `adapter_folder`; `base` is left as it was.

    Those of the milestones reached go to `milestones/<fraction>` beside it (Fig. 2).

    Args:
        ranking_stop: ends the training as well; `None` leaves that to the loss.
    """
    kept = runtime.checkpoints if runtime else None
    planned = planned_steps(schedule, len(rows), settings.optimizer.batch_size)
    # The first step of the warm-up has a learning rate of 0 and leaves B = 0.
    trained_at = 2 if settings.optimizer.warmup_ratio else 1
    milestones = _Milestones(
        {f: max(trained_at, round(f * planned)) for f in settings.milestones},
        (kept.path if kept else adapter_folder.parent) / "milestones",
        base_name,
    )
    result, verification, _ = train_selected(
        base,
        layers,
        rows,
        method="lora",
        settings=settings.lora,
        schedule=schedule,
        optimizer=settings.optimizer,
        stability=settings.stability,
        callbacks=[milestones, *([ranking_stop] if ranking_stop else [])],
        seed=seed,
        folder=adapter_folder,
        base_name=base_name,
        runtime=runtime,
    )
    if kept and milestones.folder.exists():
        shutil.copytree(milestones.folder, adapter_folder.parent / "milestones")
    settled = ranking_stop is not None and ranking_stop.settled
    return Stage1Result(
        seed=seed,
        stable=bool(result.stable) or settled,
        stable_by="loss" if result.stable else "ranking" if settled else None,
        stable_at=result.steps if result.stable or settled else None,
        probes=ranking_stop.probes if ranking_stop else [],
        verification=verification,
        trainable_parameters=verification.trainable_parameters,
        **result.model_dump(exclude={"stable", "stable_at", "peak_allocated_bytes"}),
    )


class _Milestones(TrainerCallback):  # type: ignore[misc]
    """Saves the adapter on the way, beside the checkpoints if there are any: a kill spares it."""

    def __init__(self, steps: Mapping[float, int], folder: Path, base_name: str | None) -> None:
        self._steps, self.folder, self._base_name = steps, folder, base_name

    def on_step_end(
        self, args: Any, state: TrainerState, control: Any, model: Any, **_: Any
    ) -> None:
        for fraction, step in self._steps.items():  # in a short schedule several fall on one step
            if step == state.global_step:
                save_adapter(model, self.folder / f"{fraction:g}", self._base_name)
