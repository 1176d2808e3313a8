"""Full fine-tuning of the selected layers: their own weights train, with embeddings and norms."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ila_core.config import FullMethod
from ila_core.errors import CheckError, UserError, listed
from ila_core.models.experts import all_expert_tensors
from ila_core.train.methods.lora import linear_layers
from ila_core.train.trainable import Trainable

WEIGHTS = "trained.safetensors"


class Full:
    """What an unselected linear layer has, weight and bias, is frozen, and nothing else but routers
    and the biases of experts, which are in no layer.

    A weight that is an embedding as well (a tied `lm_head`) is an embedding, and trains.
    """

    version = 5
    four_bit = False
    experts = True
    folder = "weights"

    def check(self, settings: FullMethod, steps: int) -> None:
        """Any number of steps will do."""

    def prepare(
        self,
        model: Any,
        layers: Sequence[str],
        settings: FullMethod,
        *,
        seed: int,
        steps: int,
        ranks: Mapping[str, int] | None = None,
    ) -> Trainable:
        import torch
        from torch import nn

        assert ranks is None, "a policy that sets ranks refuses this method"
        selected: set[int] = set()
        expected = 0
        experts = all_expert_tensors(model)
        for name in layers:
            if name in experts:
                selected.add(id(experts[name]))
                expected += experts[name].numel()
        for linear in linear_layers(model, [name for name in layers if name not in experts]):
            selected.update(id(p) for p in linear.parameters())
            bias = linear.out_features if linear.bias is not None else 0
            expected += linear.in_features * linear.out_features + bias
        beside = {
            id(p)
            for x in model.modules()
            if isinstance(x, nn.Embedding) or "norm" in type(x).__name__.lower()
            for p in x.parameters(recurse=False)
        }
        also = []
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(id(parameter) in selected or id(parameter) in beside)
            if id(parameter) in beside:
                also.append(name)
                expected += parameter.numel() if id(parameter) not in selected else 0
        narrow = {p.dtype for p in model.parameters() if p.requires_grad} - {torch.float32}
        for parameter in model.parameters():
            if parameter.requires_grad:  # a 16-bit weight would swallow most updates
                parameter.data = parameter.data.to(
                    torch.promote_types(parameter.dtype, torch.float32)
                )
        return Trainable(
            model,
            expected,
            also_trains=also,
            autocast=next((x for x in narrow if x.itemsize == 2), None),
        )

    def save(self, model: Any, folder: Path, base_name: str | None) -> None:
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        trained = {
            n: p.detach().contiguous() for n, p in model.named_parameters() if p.requires_grad
        }
        save_file(trained, folder / WEIGHTS, metadata={"base": base_name or ""})

    def load(self, base: Any, folder: Path) -> Any:
        import torch
        from safetensors.torch import load_file

        if not (folder / WEIGHTS).is_file():
            raise UserError(f"{folder} holds no fully fine-tuned weights ({WEIGHTS})")
        trained = load_file(folder / WEIGHTS)
        parameters = dict(base.named_parameters())
        odd = [
            n for n, t in trained.items() if n not in parameters or parameters[n].shape != t.shape
        ]
        if odd:
            raise CheckError(
                f"the base model has no {listed(odd)} of that shape: another model's weights?"
            )
        with torch.no_grad():
            for name, tensor in trained.items():
                parameters[name].copy_(tensor)
        return base

    def detach(self, model: Any) -> None:
        """The base is what was trained; there is nothing to take off."""
