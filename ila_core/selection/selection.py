"""What a policy decided: the layers that train, and those that are frozen."""

from ila_core.config import Frozen

Details = dict[str, int | float | str]
UNCOVERED = "uncovered"
"""The detail that says what of the model no selection trains, where that is much."""


class Selection(Frozen):
    """The layers to train, and all others frozen; both in layer order."""

    policy: str
    source: str | None
    """Dataset whose scores decided, for policies that read one."""
    train: tuple[str, ...]
    frozen: tuple[str, ...]
    trainable_parameters: int
    """Parameters that train in these layers under the arm's method."""
    lora_ranks: dict[str, int] | None = None
    """LoRA's rank by layer, where a policy set it; `None` is the method's everywhere."""
    rates: dict[str, float] | None = None
    """Factor on the learning rate by layer, where a policy set it."""
    details: Details
    """What the policy has to say about its choice, e.g. how far from equal parameters it is."""
