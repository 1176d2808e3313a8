"""Fine-tune a selection of layers under the contract (stage 1: every layer, until stable)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from transformers import TrainerCallback

from ila_core.batches import Row
from ila_core.config import (
    FinetuneConfig,
    LoraSettings,
    OptimizerSettings,
    Schedule,
    StabilitySettings,
)
from ila_core.errors import UserError
from ila_core.methods import METHODS
from ila_core.methods.lora import save_adapter
from ila_core.train import Circumstance, TrainResult, train
from ila_core.verify import SelectionContract, Verification


class FinetuneResult(BaseModel):
    """`finetune.json`, less arm, policy and dataset."""

    model_config = ConfigDict(frozen=True)

    seed: int
    steps: int
    losses: list[float]
    seconds: float
    peak_memory_bytes: int | None
    trainable_parameters: int
    verification: Verification


def finetune(
    base: Any,
    layers: Sequence[str],
    rows: Sequence[Row],
    settings: FinetuneConfig,
    *,
    seed: int,
    adapter_folder: Path,
    base_name: str | None = None,
    circumstance: Circumstance | None = None,
) -> FinetuneResult:
    """Train `layers` for the whole schedule and save the adapter; `base` is left as it was."""
    result, verification = train_adapter(
        base,
        layers,
        rows,
        method=settings.method,
        lora=settings.lora,
        schedule=settings,
        optimizer=settings.optimizer,
        stability=None,
        seed=seed,
        adapter_folder=adapter_folder,
        base_name=base_name,
        circumstance=circumstance,
    )
    return FinetuneResult(
        seed=seed,
        verification=verification,
        trainable_parameters=verification.trainable_parameters,
        **result.model_dump(include={"steps", "losses", "seconds", "peak_memory_bytes"}),
    )


def train_adapter(
    base: Any,
    layers: Sequence[str],
    rows: Sequence[Row],
    *,
    method: str,
    lora: LoraSettings,
    schedule: Schedule,
    optimizer: OptimizerSettings,
    stability: StabilitySettings | None,
    callbacks: Sequence[TrainerCallback] = (),
    seed: int,
    adapter_folder: Path,
    base_name: str | None,
    circumstance: Circumstance | None,
) -> tuple[TrainResult, Verification]:
    """Attach, train, verify, save, detach: nothing is saved unless the contract held."""
    if not layers:
        raise UserError("no layer is selected, so there is nothing to train")
    chosen = METHODS[method]
    expected = chosen.parameters(base, layers, lora)
    model = chosen.attach(base, layers, lora, seed)
    try:
        contract = SelectionContract(model, layers, expected_parameters=expected)
        result = train(
            model,
            rows,
            schedule=schedule,
            optimizer=optimizer,
            seed=seed,
            stability=stability,
            callbacks=[contract, *callbacks],
            circumstance=circumstance,
        )
        verification = contract.fulfilled()
        save_adapter(model, adapter_folder, base_name)
    finally:
        model.unload()
    return result, verification
