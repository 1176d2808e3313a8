"""Held-out loss on the way of a training: an arm that overfits is judged at its best step too."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerState

from ila_core.config.base import FrozenResult
from ila_core.data.batches import Row
from ila_core.train.held_out_loss import ConversationLoss, held_out_loss


class Watched(FrozenResult):
    step: int
    loss: float
    """Mean over all tokens, in nats."""
    conversations: list[ConversationLoss]


class HeldOutWatch(TrainerCallback):  # type: ignore[misc]
    """Evaluates at some steps; the training is the same as without it.

    Args:
        rows: held-out conversations.
        fractions: of the planned steps.
        planned: number of these.
        eval_batch: conversations per forward pass.
    """

    def __init__(
        self, rows: Sequence[Row], fractions: Sequence[float], *, planned: int, eval_batch: int
    ) -> None:
        self._rows, self._eval_batch = rows, eval_batch
        self._steps = {max(1, round(fraction * planned)) for fraction in fractions} - {planned}
        self.watched: list[Watched] = []

    def on_step_end(
        self, args: Any, state: TrainerState, control: Any, model: Any, **_: Any
    ) -> None:
        if state.global_step not in self._steps:
            return
        found = held_out_loss(model, self._rows, eval_batch=self._eval_batch)
        self.watched.append(
            Watched(step=state.global_step, loss=found.loss, conversations=found.conversations)
        )

    def state(self) -> dict[str, Any]:
        return {"watched": [w.model_dump() for w in self.watched]}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.watched = [Watched.model_validate(w) for w in state["watched"]]
