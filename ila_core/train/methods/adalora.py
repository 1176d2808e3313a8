"""AdaLoRA: singular values that matter least are pruned while it trains, down to a budget.

PEFT's `AdaLoraModel` does the arithmetic. It allocates ranks only when the training loop tells it
to after each step, and adds its orthogonality penalty only to a loss that the model itself returns:
both are done here, or ranks would never fall and nothing would keep P and Q orthogonal.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ila_core.config import AdaLoraMethod
from ila_core.errors import UserError
from ila_core.train.methods.lora import (
    initialise,
    linear_layers,
    load_adapter,
    lora_layers,
    save_adapter,
)
from ila_core.train.trainable import Trainable


class AdaLora:
    """`y = W x + (alpha / r0) B (E . A x)`; E starts at 0 as PEFT has it, A and B from the seed."""

    version = 6
    four_bit = False
    experts = False
    folder = "adapter"

    def check(self, settings: AdaLoraMethod, steps: int) -> None:
        falling = steps - sum(_phases(settings, steps))
        if falling < settings.every:
            raise UserError(
                f"adalora: of {steps} steps, {falling} are left between warm-up "
                f"({settings.warmup:g}) and final phase ({settings.final:g}), fewer than one "
                f"allocation of ranks takes (every: {settings.every}); train longer, or lower these"
            )

    def prepare(
        self,
        model: Any,
        layers: Sequence[str],
        settings: AdaLoraMethod,
        *,
        seed: int,
        steps: int,
        ranks: Mapping[str, int] | None = None,
    ) -> Trainable:
        from peft import AdaLoraConfig, get_peft_model

        from ila_core.train.adalora_ranks import RankAllocation, orthogonality, remaining_ranks

        assert ranks is None, "a policy that sets ranks refuses this method"
        warmup, final = _phases(settings, steps)
        linears = linear_layers(model, layers)
        config = AdaLoraConfig(
            target_r=settings.r,
            init_r=settings.initial_r,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            tinit=warmup,
            tfinal=final,
            deltaT=settings.every,
            beta1=settings.beta1,
            beta2=settings.beta2,
            orth_reg_weight=settings.orthogonality,
            total_step=steps,
            target_modules=list(layers),
            task_type="CAUSAL_LM",
        )
        adapted = get_peft_model(model, config)
        for name, layer in lora_layers(adapted).items():
            # On a bfloat16 base PEFT 0.21 makes a parameter that trains of this count of ranks.
            layer.ranknum["default"].requires_grad_(False)
            for matrix in ("lora_A", "lora_B"):
                initialise(getattr(layer, matrix)["default"], f"{seed}/{name}/{matrix}", std=0.02)
        return Trainable(
            adapted,
            sum(settings.initial_r * (x.in_features + x.out_features + 1) for x in linears),
            proof="lora_E",  # the penalty alone gives A and B a gradient
            callbacks=[RankAllocation(adapted)],
            penalty=lambda: orthogonality(adapted),
            ranks=lambda: remaining_ranks(adapted, settings.r * len(layers)),
        )

    def save(self, model: Any, folder: Path, base_name: str | None) -> None:
        with warnings.catch_warnings():
            # A layer may lose its last rank, which PEFT takes for a shard nobody gathered.
            warnings.filterwarnings("ignore", message=".*LoRA tensor.* have invalid shape")
            save_adapter(model, folder, base_name)

    def load(self, base: Any, folder: Path) -> Any:
        with warnings.catch_warnings():
            # PEFT 0.21 takes the ranks of AdaLoRA, which it then heeds, for patterns of LoRA.
            warnings.filterwarnings("ignore", message="The following rank_pattern keys")
            return load_adapter(base, folder)

    def detach(self, model: Any) -> None:
        model.unload()


def _phases(settings: AdaLoraMethod, steps: int) -> tuple[int, int]:
    return round(settings.warmup * steps), round(settings.final * steps)
