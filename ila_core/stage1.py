"""Stage 1: LoRA on every layer until the loss is epsilon-stable (Algorithm 1, first half)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ila_core.batches import Row
from ila_core.config import Schedule, Stage1Settings
from ila_core.finetune import train_adapter
from ila_core.train import Circumstance
from ila_core.verify import Verification


class Stage1Result(BaseModel):
    """`stage1.json`, less the dataset."""

    model_config = ConfigDict(frozen=True)

    seed: int
    losses: list[float]
    steps: int
    planned_steps: int
    stable: bool
    stable_at: int | None
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
    base_name: str | None = None,
    circumstance: Circumstance | None = None,
) -> Stage1Result:
    """Train an adapter on `layers` and save it to `adapter_folder`; `base` is left as it was."""
    result, verification = train_adapter(
        base,
        layers,
        rows,
        method="lora",
        lora=settings.lora,
        schedule=schedule,
        optimizer=settings.optimizer,
        stability=settings.stability,
        seed=seed,
        adapter_folder=adapter_folder,
        base_name=base_name,
        circumstance=circumstance,
    )
    return Stage1Result(
        seed=seed,
        verification=verification,
        trainable_parameters=verification.trainable_parameters,
        **result.model_dump(),
    )
