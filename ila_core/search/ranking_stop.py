"""Stage 1 stopped when the ranking stops moving, whatever the loss still does.

A scorer that needs a few batches looks at the adapter on the way. Nothing of the training changes
by that: the steps up to the last one are those of the whole schedule.
"""

from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from ila_core.config import RankingStopSettings
from ila_core.config.base import FrozenResult
from ila_core.data.batches import Row
from ila_core.errors import UserError
from ila_core.models.layers import Layer
from ila_core.provenance import seeded
from ila_core.search.agreement import jaccard_of_kept
from ila_core.search.ranking import exact, kept_count, least
from ila_core.search.scorers import SCORERS
from ila_core.search.scoring import Material


class Probe(FrozenResult):
    """The scores on the way, and how far the ranking has moved since the probe before."""

    step: int
    scores: dict[str, float]
    jaccard: float | None
    """Jaccard of the kept layers with the probe before; `None` for the first."""
    cost_tokens: float
    """What the probes cost, counted as `ScoreResult.cost_tokens`."""


class RankingStop(TrainerCallback):  # type: ignore[misc]
    """Probes the adapter every so often; stops once `patience` probes in a row agree.

    Args:
        layers: those that are adapted, in layer order.
        rows: conversations that the scorer sees.
        settings: how often, by which scorer, and what counts as agreement.
        planned: steps of the whole schedule.
        seed: of the scorer's rows: all probes see the same.
        micro_batch: most conversations per forward pass.

    Raises:
        UserError: `keep` rounds to all layers or none, which agree whatever their scores.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        rows: Sequence[Row],
        settings: RankingStopSettings,
        *,
        planned: int,
        seed: int,
        micro_batch: int,
    ) -> None:
        self._layers, self._rows, self._settings = layers, rows, settings
        kept = kept_count(settings.keep, len(layers))
        if not 0 < kept < len(layers):
            raise UserError(
                f"search.stage1.ranking_stop.keep {settings.keep:g} keeps {kept} of {len(layers)} "
                "layers, on which every ranking agrees; give a fraction that leaves some out"
            )
        # Not at the first step, whose learning rate is 0 in a warm-up: B = 0 has no ranking.
        self._every = max(2, round(settings.every * planned))
        self._seed, self._micro_batch = seed, micro_batch
        self.probes: list[Probe] = []
        self.settled = False
        """Whether the ranking has stopped moving."""

    def state(self) -> dict[str, Any]:
        return {"probes": [probe.model_dump() for probe in self.probes]}

    def restore(self, state: dict[str, Any]) -> None:
        self.probes = [Probe.model_validate(probe) for probe in state["probes"]]

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any, **_: Any
    ) -> None:
        if state.global_step % self._every:
            return
        settings = self._settings
        material = Material(
            self._layers, model, self._rows, settings.scoring, self._seed, self._micro_batch
        )
        with seeded(self._seed):  # and the generators are put back: training goes on as it was
            found = SCORERS[settings.scorer].score(material)
        jaccard = self._agreement(found.scores)
        self.probes.append(
            Probe(
                step=state.global_step,
                scores=found.scores,
                jaccard=jaccard,
                cost_tokens=found.cost_tokens,
            )
        )
        recent = self.probes[-settings.patience :]
        self.settled = len(self.probes) > settings.patience and all(
            probe.jaccard is not None and probe.jaccard >= settings.agree for probe in recent
        )
        control.should_training_stop |= self.settled

    def _agreement(self, scores: dict[str, float]) -> float | None:
        if not self.probes:
            return None
        n = len(self._layers)
        a, b = (
            least(column, self._layers, 1 - exact(self._settings.keep))
            for column in (self.probes[-1].scores, scores)
        )
        frozen = n - kept_count(self._settings.keep, n)
        return jaccard_of_kept(n, frozen, frozen, len(a & b))
