"""The loss of a stage-1 model with a set of its adapters closed (Eqs. 1 and 3, evaluated).

>>> masked = MaskedLoss(model, held_out, eval_batch=32)
>>> masked.loss(["lm_head"]) - masked.loss([])
"""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch

from ila_core.data.batches import Row, loss_tokens
from ila_core.errors import CheckError, listed
from ila_core.train.held_out_loss import held_out_loss
from ila_core.train.methods.lora import lora_layers


class MaskedLoss:
    """Token-mean loss on fixed rows by the set of closed adapters; no set is evaluated twice.

    A closed gate is exactly the base layer, an open one exactly the stage-1 layer, and evaluation
    is that of the benchmark `held_out_loss`: with nothing closed the loss is the stage-1 model's
    own, with everything closed the base model's.

    Args:
        model: the base with the trained adapter on it; it comes back as it was.
        rows: held-out conversations.
        eval_batch: conversations per forward pass.
        on_evaluation: called before every pass over the rows; what it raises ends the work.
    """

    def __init__(
        self,
        model: Any,
        rows: Sequence[Row],
        *,
        eval_batch: int,
        on_evaluation: Callable[[], None] = lambda: None,
    ) -> None:
        self._model, self._rows, self._eval_batch = model, rows, eval_batch
        self._on_evaluation = on_evaluation
        self._names = frozenset(lora_layers(model))
        self._found: dict[frozenset[str], tuple[float, ...]] = {}
        self.tokens = tuple(loss_tokens(row) for row in rows)
        """Targets of each conversation."""

    @property
    def evaluations(self) -> int:
        """The number of sets that were evaluated, each by one forward pass over all rows."""
        return len(self._found)

    def loss(self, closed: Collection[str]) -> float:
        """Return the mean loss over all targets, in nats, with only these adapters closed."""
        return math.fsum(self.by_conversation(closed)) / sum(self.tokens)

    def by_conversation(self, closed: Collection[str]) -> tuple[float, ...]:
        """Return the negative log-likelihood in nats, summed over each conversation's targets.

        Raises:
            CheckError: a name without an adapter, or a loss that is not finite.
        """
        key = frozenset(closed)
        if key not in self._found:
            self._found[key] = self._evaluate(key)
        return self._found[key]

    def _evaluate(self, closed: frozenset[str]) -> tuple[float, ...]:
        from ila_core.search.gates import Gates

        self._on_evaluation()
        unknown = sorted(closed - self._names)
        if unknown:
            raise CheckError(f"no adapter on {listed(unknown)}, so there is nothing to close")
        with Gates(self._model, initial_score=math.inf) as gates:
            with torch.no_grad():
                for name in closed:
                    gates.parameters[name].fill_(-math.inf)
            found = held_out_loss(self._model, self._rows, eval_batch=self._eval_batch)
        return tuple(conversation.nll for conversation in found.conversations)
