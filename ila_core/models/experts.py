"""Experts that are 3-D parameters: one tensor of all experts, (experts, out, in) or transposed.

transformers 5 keeps the experts of most architectures so. Such a tensor is a layer, by its full
name as a parameter (`model.layers.3.mlp.experts.down_proj`), and PEFT adapts it by
`target_parameters`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

_NESTED = ".base_layer"


def expert_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of experts that `module` itself holds, by their names in it.

    Known by the class, which transformers names so: Mixtral has `MixtralExperts`, Jetmoe
    `JetMoeParallelExperts`; 3-D weights of convolutions and of block-diagonal gates are none.
    """
    if "Experts" not in type(module).__name__:
        return {}
    own = module.named_parameters(recurse=False)
    return {name: tensor for name, tensor in own if tensor.dim() == 3 and len(tensor) > 1}


def all_expert_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of experts of a base model, by their full names, in `named_modules()` order."""
    return {
        f"{name}.{own}": tensor
        for name, module in model.named_modules()
        for own, tensor in expert_tensors(module).items()
    }


def adapts_experts(layer: Any) -> bool:
    """Whether a LoRA layer of PEFT adapts a tensor of experts, and no module."""
    from peft.tuners.lora import ParamWrapper

    return isinstance(layer, ParamWrapper)


def adapted_layers(base: nn.Module) -> dict[str, Any]:
    """PEFT's LoRA layers within a base model by the layers' own names, in layer order.

    Around a module of several adapted tensors PEFT nests one wrapper for each, the first innermost.
    """
    from peft.tuners.lora import LoraLayer

    found: dict[str, Any] = {}
    for name, module in base.named_modules():
        if not adapts_experts(module):
            if isinstance(module, LoraLayer):
                found[name] = module
        elif not name.endswith(_NESTED):
            nest: list[Any] = [module]
            while adapts_experts(inner := nest[-1].base_layer):
                nest.append(inner)
            found |= {f"{name}.{wrapper.parameter_name}": wrapper for wrapper in reversed(nest)}
    return found
