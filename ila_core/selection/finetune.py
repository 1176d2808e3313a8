"""Fine-tune a selection of layers under the contract."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ila_core.config import MethodSettings, OptimizerSettings
from ila_core.config.base import FrozenResult
from ila_core.data.batches import Row
from ila_core.selection.held_out_watch import HeldOutWatch, Watched
from ila_core.selection.selection import Selection
from ila_core.train.contract import Verification
from ila_core.train.loop import TrainRuntime
from ila_core.train.methods import METHODS
from ila_core.train.selected import train_selected


class FinetuneResult(FrozenResult):
    """The contents of `finetune.json` without arm, policy and dataset."""

    method: str
    seed: int
    steps: int
    losses: list[float]
    watched: list[Watched]
    """Held-out loss on the way, where it was asked for."""
    ranks: dict[str, int] | None
    """What is left of each layer's rank, where training decides it (AdaLoRA)."""
    seconds: float
    peak_memory_bytes: int | None
    peak_allocated_bytes: int | None
    trainable_parameters: int
    verification: Verification


def finetune(
    base: Any,
    selection: Selection,
    rows: Sequence[Row],
    method: str,
    settings: MethodSettings,
    optimizer: OptimizerSettings,
    *,
    seed: int,
    folder: Path,
    watch: HeldOutWatch | None = None,
    base_name: str | None = None,
    runtime: TrainRuntime | None = None,
) -> FinetuneResult:
    """Train the selected layers for the whole schedule and save them under `folder`.

    `base` is left as it was, but for full fine-tuning, which trains its own weights.
    """
    result, verification, ranks = train_selected(
        base,
        selection.train,
        rows,
        method=method,
        settings=settings,
        schedule=settings,
        optimizer=optimizer,
        stability=None,
        callbacks=[watch] if watch else [],
        ranks=selection.lora_ranks,
        rates=selection.rates,
        seed=seed,
        folder=folder / METHODS[method].folder,
        base_name=base_name,
        runtime=runtime,
    )
    return FinetuneResult(
        method=method,
        seed=seed,
        watched=watch.watched if watch else [],
        ranks=dict(ranks) if ranks else None,
        verification=verification,
        trainable_parameters=verification.trainable_parameters,
        **result.model_dump(
            include={"steps", "losses", "seconds", "peak_memory_bytes", "peak_allocated_bytes"}
        ),
    )
