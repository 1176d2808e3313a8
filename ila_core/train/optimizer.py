"""AdamW as in Appendix B, with a learning rate by parameter where a policy asks for it."""

from collections.abc import Callable

import torch
from torch import nn

from ila_core.config import OptimizerSettings

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def adamw(
    lr: float, settings: OptimizerSettings, rate: Callable[[nn.Parameter], float] = lambda _: 1.0
) -> MakeOptimizer:
    """Make AdamW with weight decay on matrices only: biases and norms have none.

    Args:
        lr: peak learning rate.
        settings: betas and weight decay.
        rate: factor on the learning rate of a parameter.
    """

    def make(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for parameter in parameters:
            decay = settings.weight_decay if parameter.dim() > 1 else 0.0
            groups.setdefault((decay, rate(parameter)), []).append(parameter)
        return torch.optim.AdamW(
            [
                {"params": own, "weight_decay": decay, "lr": lr * factor}
                for (decay, factor), own in groups.items()
            ],
            lr=lr,
            betas=(settings.beta1, settings.beta2),
        )

    return make
