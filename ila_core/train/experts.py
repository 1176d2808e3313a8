"""What cannot be done with tensors of experts is refused before anything is trained."""

from collections.abc import Sequence

from ila_core.config import LoraSettings, MethodSettings
from ila_core.errors import UserError, listed
from ila_core.models.layers import Layer
from ila_core.train.methods import METHODS

_NAMED = 2


def refuse_experts(layers: Sequence[Layer], given: str, why: str, allowed: str) -> None:
    """Refuse what `given` asks for where any of the layers is a tensor of experts.

    Raises:
        UserError: one is.
    """
    names = [layer.name for layer in layers if layer.holds_experts]
    if names:
        raise UserError(
            f"{given}, but {why}, and {listed(names, most=_NAMED)} hold experts in one tensor; "
            f"{allowed}, or leave the experts out, with `exclude:` in the model profile"
        )


def check_experts(
    layers: Sequence[Layer], method: str, settings: LoraSettings | MethodSettings, field: str
) -> None:
    """Check that the method trains tensors of experts, where any of the layers is one.

    Args:
        field: of the profile, where the settings are given.

    Raises:
        UserError: it does not, or not with this dropout.
    """
    able = [name for name, known in METHODS.items() if known.experts]
    if method not in able:
        why = f"of all methods {' and '.join(able)} train experts"
        refuse_experts(layers, f"method: given {method!r}", why, f"give {' or '.join(able)}")
    if (dropout := getattr(settings, "dropout", 0)) > 0:
        refuse_experts(
            layers,
            f"{field}.dropout: given {dropout:g}",
            "PEFT adapts experts without dropout (the update is added to their weights)",
            "give 0",
        )
