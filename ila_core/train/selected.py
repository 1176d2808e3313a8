"""Train some layers of a base under the contract: a selection, or in stage 1 every layer."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback

from ila_core.config import (
    LoraSettings,
    MethodSettings,
    OptimizerSettings,
    Schedule,
    StabilitySettings,
)
from ila_core.data.batches import Row, planned_steps
from ila_core.errors import UserError
from ila_core.train.contract import (
    SelectionContract,
    Verification,
    base_parameters,
    owner_of,
)
from ila_core.train.loop import TrainResult, TrainRuntime, train
from ila_core.train.methods import METHODS
from ila_core.train.optimizer import adamw


def train_selected(
    base: Any,
    layers: Sequence[str],
    rows: Sequence[Row],
    *,
    method: str,
    settings: LoraSettings | MethodSettings,
    schedule: Schedule,
    optimizer: OptimizerSettings,
    stability: StabilitySettings | None,
    callbacks: Sequence[TrainerCallback] = (),
    ranks: Mapping[str, int] | None = None,
    rates: Mapping[str, float] | None = None,
    seed: int,
    folder: Path,
    base_name: str | None,
    runtime: TrainRuntime | None,
) -> tuple[TrainResult, Verification, Mapping[str, int] | None]:
    """Attach, train, verify, save, detach: nothing is saved unless the contract held.

    Returns:
        How it went, the proof, and each layer's rank at the end where training decided it.
    """
    if not layers:
        raise UserError("no layer is selected, so there is nothing to train")
    chosen = METHODS[method]
    steps = planned_steps(schedule, len(rows), optimizer.batch_size)
    chosen.check(settings, steps)
    ready = chosen.prepare(base, layers, settings, seed=seed, steps=steps, ranks=ranks)
    try:
        contract = SelectionContract(
            ready.model,
            layers,
            expected_parameters=ready.expected_parameters,
            also=ready.also_trains,
            proof=ready.proof,
        )
        result = train(
            ready.model,
            rows,
            schedule=schedule,
            optimizer=optimizer,
            seed=seed,
            stability=stability,
            make_optimizer=adamw(schedule.lr, optimizer, _rate(ready.model, rates)),
            callbacks=[contract, *ready.callbacks, *callbacks],
            penalty=ready.penalty,
            autocast=ready.autocast,
            runtime=runtime,
        )
        verification = contract.fulfilled()
        left = ready.ranks() if ready.ranks else None
        chosen.save(ready.model, folder, base_name)
    finally:
        chosen.detach(ready.model)
    return result, verification, left


def _rate(model: Any, rates: Mapping[str, float] | None) -> Callable[[nn.Parameter], float]:
    """Return a parameter's factor on the learning rate: its layer's, or 1 outside the selection."""
    known = rates or {}
    factors = {
        id(p): known[owner] for n, p in base_parameters(model) if (owner := owner_of(n, known))
    }
    return lambda parameter: factors.get(id(parameter), 1.0)
