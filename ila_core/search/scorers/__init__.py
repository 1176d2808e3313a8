"""Scorers that learn nothing: one file each, one line in `SCORERS`.

The search's own scores, `ila` (`ila_core.search.gates.learn_gates`), stand beside them in every
comparison. A scorer says how much it needs and what it cost, so that a cheap one can be weighed
against a dear one:

    SCORERS["integrated_gradients"].score(material)  # ScoreResult(scores, cost_tokens, remainder)
"""

from collections.abc import Sequence

from ila_core.models.layers import Layer
from ila_core.search.scorers.fisher import Fisher
from ila_core.search.scorers.gate_gradient import GateGradient
from ila_core.search.scorers.integrated_gradients import IntegratedGradients
from ila_core.search.scorers.kappa import Kappa
from ila_core.search.scorers.leave_one_out import LeaveOneOut
from ila_core.search.scorers.lora_drop import LoraDrop
from ila_core.search.scorers.lora_norm import LoraNorm
from ila_core.search.scorers.random import Random
from ila_core.search.scorers.size import Size
from ila_core.search.scorers.weight_snr import WeightSnr
from ila_core.search.scoring import Scorer
from ila_core.train.experts import refuse_experts

ILA = "ila"
"""The scores that gate learning finds (Eq. 7)."""

IN_NATS = "integrated_gradients"
"""The scores that add up to what the whole update gains."""

SCORERS: dict[str, Scorer] = {
    "size": Size(),
    "random": Random(),
    "weight_snr": WeightSnr(),
    "kappa": Kappa(),
    "lora_norm": LoraNorm(),
    "lora_drop": LoraDrop(),
    "fisher": Fisher(),
    "gate_gradient": GateGradient(),
    "integrated_gradients": IntegratedGradients(),
    "leave_one_out": LeaveOneOut(),
}

SCORER_NAMES: tuple[str, ...] = (ILA, *SCORERS)
"""Every name that a ranking's `scorer` can have."""


def check_scorer(scorer: str, layers: Sequence[Layer]) -> None:
    """Check that a scorer can score these layers.

    Raises:
        UserError: some are tensors of experts, which are no modules with an input of their own.
    """
    if scorer == "lora_drop":
        refuse_experts(
            layers,
            "scorer: given 'lora_drop'",
            "it reads the input of every layer",
            f"give one of {', '.join(name for name in SCORER_NAMES if name != scorer)}",
        )
