"""What PEFT's AdaLoRA leaves to the training loop: falling ranks, and the orthogonality penalty."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerState

from ila_core.errors import CheckError
from ila_core.train.methods.lora import lora_layers

_IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""What PEFT holds of every weight of an adapter: its importance, the mean of that, its spread."""


def orthogonality(model: Any) -> Tensor:
    """Compute PEFT's penalty, the weighted mean of ||P'P - I|| and ||QQ' - I|| over matrices."""
    norms = []
    for layer in lora_layers(model).values():
        a, b = layer.lora_A["default"], layer.lora_B["default"]
        for gram in (a @ a.T, b.T @ b):
            norms.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)))
    weight: float = model.peft_config["default"].orth_reg_weight
    return weight * torch.stack(norms).mean()


def remaining_ranks(model: Any, budget: int) -> dict[str, int]:
    """Count the singular values that remain, by layer.

    Raises:
        CheckError: more are left than the budget, as when nobody allocates ranks.
    """
    ranks = {
        name: int((layer.lora_E["default"] != 0).sum())
        for name, layer in lora_layers(model).items()
    }
    if model.peft_config["default"].rank_pattern is None or sum(ranks.values()) > budget:
        raise CheckError(
            f"AdaLoRA was to end with {budget} ranks in all and has {sum(ranks.values())}: its "
            "ranks did not fall"
        )
    return ranks


class RankAllocation(TrainerCallback):  # type: ignore[misc]
    """Lets ranks fall after every step, and remembers for a resumed training how far they have."""

    def __init__(self, model: Any) -> None:
        self._config, self._tuner = model.peft_config["default"], model.base_model

    def on_optimizer_step(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        # Counted from 1: PEFT fixes the ranks at `total_step - tfinal`, which counting from 0 never
        # reaches where there is no final phase.
        self._tuner.update_and_allocate(state.global_step + 1)

    def state(self) -> dict[str, Any]:
        return {"rank_pattern": self._config.rank_pattern}

    def restore(self, state: dict[str, Any]) -> None:
        self._config.rank_pattern = state["rank_pattern"]

    def tensors(self) -> dict[str, Tensor]:
        allocator = self._tuner.rankallocator
        return {
            f"{kind}/{n}": t for kind in _IMPORTANCE for n, t in getattr(allocator, kind).items()
        }

    def restore_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        allocator = self._tuner.rankallocator
        allocator.reset_ipt()
        for key, tensor in tensors.items():
            kind, _, name = key.partition("/")
            getattr(allocator, kind)[name] = tensor
