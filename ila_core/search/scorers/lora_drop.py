"""How much an adapter says on real inputs: the size of its output (LoRA-drop).

Zhou et al., "LoRA-drop: Efficient LoRA Parameter Pruning based on Output Evaluation", COLING 2025.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ila_core.data.batches import collate
from ila_core.search.scoring import FORWARD, Material, Needs, ScoreResult, tokens_of

if TYPE_CHECKING:
    from torch import Tensor


class LoraDrop:
    needs: Needs = "rows"
    version = 1

    def score(self, material: Material) -> ScoreResult:
        """Mean over tokens of ||beta B A x||_2, x the layer's own input.

        Over every token that is no padding; for `lm_head`, which the loss calls on targets alone,
        over the targets.
        """
        import torch

        from ila_core.train.loss import TokenLoss, eval_mode

        model, layers, rows = material.model, material.adapted_layers(), material.sampled_rows()
        current: dict[str, Tensor | None] = {"mask": None}
        sums: dict[str, Tensor] = {}
        device = next(model.parameters()).device
        by_length = sorted(rows, key=lambda row: -len(row.input_ids))
        counts = dict.fromkeys(layers, 0)

        def watch(name: str) -> Callable[[Any, tuple[Tensor, ...]], None]:
            # By the layer's input: a layer of a training does not call PEFT's modules for A and B.
            def add(layer: Any, inputs: tuple[Tensor, ...]) -> None:
                a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
                update = inputs[0].to(a.dtype) @ a.T @ b.T
                norms = (update.float() * layer.scaling["default"]).norm(dim=-1)
                mask = current["mask"]
                if mask is not None and norms.shape == mask.shape:
                    norms = norms[mask]
                sums[name] = sums.get(name, norms.new_zeros(())) + norms.sum()
                counts[name] += norms.numel()

            return add

        with torch.no_grad(), eval_mode(model):
            loss = TokenLoss(model)
            hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
            try:
                for start in range(0, len(by_length), material.micro_batch):
                    part = by_length[start : start + material.micro_batch]
                    lengths = torch.tensor([[len(row.input_ids)] for row in part], device=device)
                    current["mask"] = torch.arange(len(part[0].input_ids), device=device) < lengths
                    batch = collate([[row] for row in part])
                    loss({key: value.to(device) for key, value in batch.items()})
            finally:
                for hook in hooks:
                    hook.remove()
        return ScoreResult(
            # A layer that no token reached (an expert, say) changed nothing.
            scores={n: float(sums[n]) / counts[n] if counts[n] else 0.0 for n in layers},
            cost_tokens=FORWARD * tokens_of(rows),
        )
