"""Stage 2: one gate per layer on the trained LoRA update, everything else frozen (Eq. 5-7).

The gate multiplies A x (tokens x r), not B A x (tokens x d_out): the same function, but r instead
of d_out numbers per token are kept (`ila_core.train.lora_function`; costs:
benchmarks/results/gate_cost.json). On a tensor of experts it multiplies A itself.
"""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerState

from ila_core.config import OptimizerSettings, Schedule, Stage2Settings
from ila_core.config.base import FrozenResult
from ila_core.data.batches import Row
from ila_core.errors import CheckError, listed
from ila_core.models.experts import adapts_experts
from ila_core.train.loop import TrainRuntime, train
from ila_core.train.lora_function import gated, gated_experts
from ila_core.train.methods.lora import load_adapter, lora_layers
from ila_core.train.recompute import recomputing_activations, replaced_forward

HISTORY_POINTS = 20
_SCORE = "ila_score"


class GateResult(FrozenResult):
    """The contents of `stage2.json` without the dataset."""

    seed: int
    scores: dict[str, float]
    """s after the last step; larger is more important."""
    history: list[tuple[int, dict[str, float]]]
    losses: list[float]
    seconds: float
    peak_memory_bytes: int | None
    first_gradient: dict[str, float]
    """dLoss/ds at the initial score, before any step (after clipping, where there is any)."""


class Gates:
    """Put a gate gamma_i = sigmoid(s_i) on every LoRA layer of `model` within the block.

    Within it nothing but the scores requires a gradient and every dropout is at p = 0 (not
    `eval()`: Trainer calls `train()` in each step). Afterwards the model is as it was.

        with Gates(model, initial_score=0.0) as gates:
            gates.fill(math.inf)  # all open: the stage-1 model; -inf: exactly the base

    Open gates compute as stage 1 does; PEFT's own modules may differ by rounding, for they add the
    update to the base layer's output after the matrix product, not inside it.
    """

    def __init__(self, model: Any, initial_score: float = 0.0) -> None:
        self._model, self._initial = model, initial_score
        self._layers = lora_layers(model)
        if not self._layers:
            raise CheckError("the model carries no LoRA adapter, so there is nothing to gate")

    def __enter__(self) -> Self:
        self._required = [p for p in self._model.parameters() if p.requires_grad]
        for parameter in self._required:
            parameter.requires_grad_(False)
        self._dropouts = _switch_off_dropout(self._model)
        self._scores: dict[str, nn.Parameter] = {}
        for name, layer in self._layers.items():
            # Registered, fp32 and of shape (1,): FSDP2 rejects 0-d parameters.
            device = layer.lora_A["default"].weight.device
            dtype = torch.promote_types(torch.float32, layer.lora_A["default"].weight.dtype)
            score = nn.Parameter(torch.full((1,), self._initial, dtype=dtype, device=device))
            layer.register_parameter(_SCORE, score)
            self._scores[name] = score
        self._arithmetic = ExitStack()
        experts = {n: layer for n, layer in self._layers.items() if adapts_experts(layer)}
        self._arithmetic.enter_context(
            replaced_forward(
                (layer, partial(gated, layer, self._scores[name]))
                for name, layer in self._layers.items()
                if name not in experts
            )
        )
        self._arithmetic.enter_context(
            gated_experts({layer: self._scores[name] for name, layer in experts.items()})
        )
        self._arithmetic.enter_context(recomputing_activations(self._model))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._arithmetic.close()
        for layer in self._layers.values():
            delattr(layer, _SCORE)
        for owner, attribute, p in self._dropouts:
            setattr(owner, attribute, p)
        for parameter in self._required:
            parameter.requires_grad_(True)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The scores' parameters by layer name."""
        return self._scores

    @property
    def scores(self) -> dict[str, float]:
        return _by_layer(self._scores, list(self._scores.values()))

    def fill(self, score: float) -> None:
        """Set every score. sigmoid(inf) is exactly 1, sigmoid(-inf) exactly 0."""
        with torch.no_grad():
            for parameter in self._scores.values():
                parameter.fill_(score)


def learn_gates(
    base: Any,
    adapter_folder: Path,
    rows: Sequence[Row],
    settings: Stage2Settings,
    *,
    seed: int,
    runtime: TrainRuntime | None = None,
) -> GateResult:
    """Learn the scores of a stage-1 adapter; `base` is left as it was.

    Raises:
        CheckError: an untrained adapter, a NaN, or a gate that never received a gradient; it names
            the layers.
    """
    model = load_adapter(base, adapter_folder)
    try:
        check_trained(model)
        with Gates(model, settings.initial_score) as gates:
            watch = _Watch(gates, settings.batches)
            result = train(
                model,
                rows,
                schedule=Schedule(lr=settings.lr, steps=settings.batches),
                optimizer=OptimizerSettings(
                    batch_size=settings.batch_size,
                    weight_decay=settings.weight_decay,
                    schedule=settings.schedule,
                    warmup_ratio=0.0,
                    max_grad_norm=settings.max_grad_norm,
                ),
                seed=seed,
                make_optimizer=lambda scores: _optimizer(settings, scores),
                callbacks=[watch],
                runtime=runtime,
            )
            watch.check()
            scores = gates.scores
    finally:
        model.unload()
    return GateResult(
        seed=seed,
        scores=scores,
        history=watch.history,
        first_gradient=watch.first_gradient,
        **result.model_dump(include={"losses", "seconds", "peak_memory_bytes"}),
    )


def check_trained(model: Any) -> None:
    """Refuse an adapter whose gates could never learn: where B = 0, dLoss/ds is exactly 0."""
    zero, broken = [], []
    for name, layer in lora_layers(model).items():
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        if not (a.isfinite().all() and b.isfinite().all()):
            broken.append(name)
        elif not b.any():
            zero.append(name)
    if broken:
        raise CheckError(f"the adapter is not finite in {listed(broken)}; train it again")
    if len(zero) == len(lora_layers(model)):
        raise CheckError("the adapter is untrained: B = 0 in every layer; run stage 1 first")
    if zero:
        raise CheckError(
            f"B = 0 in {listed(zero)}: such a gate never gets a gradient; train these layers "
            "in stage 1, or leave them out of the adapter"
        )


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Records first gradients and scores along the way, and finds gates that never moved."""

    def __init__(self, gates: Gates, planned: int) -> None:
        self._gates = gates
        points = min(planned, HISTORY_POINTS)
        self._recorded = {round((i + 1) * planned / points) for i in range(points)}
        self._silent = set(gates.parameters)
        self.first_gradient: dict[str, float] = {}
        self.history: list[tuple[int, dict[str, float]]] = []

    def state(self) -> dict[str, Any]:
        silent = sorted(self._silent)
        return {"silent": silent, "first": self.first_gradient, "history": self.history}

    def restore(self, state: dict[str, Any]) -> None:
        self._silent, self.first_gradient = set(state["silent"]), state["first"]
        self.history = [(step, scores) for step, scores in state["history"]]

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if not self._silent:
            return
        parameters = self._gates.parameters
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters.values()]
        found = _by_layer(parameters, gradients)
        broken = [name for name, value in found.items() if not math.isfinite(value)]
        if broken:
            step = state.global_step + 1
            raise CheckError(f"the gate gradient is not finite at step {step} in {listed(broken)}")
        self.first_gradient = self.first_gradient or found
        self._silent -= {name for name, value in found.items() if value != 0}

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if state.global_step in self._recorded:
            self.history.append((state.global_step, self._gates.scores))

    def check(self) -> None:
        if self._silent:
            names = [name for name in self._gates.parameters if name in self._silent]
            raise CheckError(f"no gradient ever reached the gate of {listed(names)}")
        broken = [name for name, score in self._gates.scores.items() if not math.isfinite(score)]
        if broken:
            raise CheckError(f"the score is not finite in {listed(broken)}; lower stage2.lr")


def _optimizer(settings: Stage2Settings, scores: list[nn.Parameter]) -> torch.optim.Optimizer:
    kinds: dict[str, type[torch.optim.SGD | torch.optim.Adam]]
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    return kinds[settings.optimizer](scores, lr=settings.lr, weight_decay=settings.weight_decay)


def _switch_off_dropout(model: nn.Module) -> list[tuple[nn.Module, str, float]]:
    """Set p = 0 in dropout modules and in the float attributes that attention passes to SDPA."""
    changed: list[tuple[nn.Module, str, float]] = []
    for module in model.modules():
        for attribute, value in list(vars(module).items()):
            is_p = attribute == "p" and isinstance(module, nn.modules.dropout._DropoutNd)
            if (is_p or attribute.endswith("dropout")) and isinstance(value, float) and value > 0:
                changed.append((module, attribute, value))
                setattr(module, attribute, 0.0)
    return changed


def _by_layer(names: dict[str, nn.Parameter], tensors: list[Tensor]) -> dict[str, float]:
    """Fetch one number per layer from the device, all in one copy."""
    return dict(zip(names, torch.cat([t.detach() for t in tensors]).tolist(), strict=True))
