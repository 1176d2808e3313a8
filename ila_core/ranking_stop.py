"""Either stage stopped when the ranking stops moving, whatever the loss still does.

In stage 1 a scorer that needs a few batches looks at the adapter on the way; stage 2 has its scores
at hand. Nothing of a training changes by that: the steps up to the last one are those of the whole
schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict
from transformers import TrainerCallback, TrainerControl, TrainerState

from ila_core.batches import Row
from ila_core.config import RankingStopSettings, RestSettings
from ila_core.ranking import Layer, kept_count
from ila_core.reproducibility import seeded
from ila_core.scorers import SCORERS
from ila_core.scoring import Material


def kept_agreement(before: Mapping[str, float], after: Mapping[str, float], keep: float) -> float:
    """Jaccard of the kept layers of two columns of scores, both in layer order."""
    count = kept_count(keep, len(after))
    a, b = (
        set(sorted(scores, key=lambda name: -scores[name])[:count]) for scores in (before, after)
    )
    return len(a & b) / len(a | b) if a | b else 1.0


def at_rest(jaccards: Sequence[float | None], settings: RestSettings) -> bool:
    """Whether each of the last `patience` looks agreed with the one before it."""
    recent = jaccards[-settings.patience :]
    return len(recent) == settings.patience and all(
        jaccard is not None and jaccard >= settings.agree for jaccard in recent
    )


class Probe(BaseModel):
    """The scores on the way, and how far the ranking has moved since the probe before."""

    model_config = ConfigDict(frozen=True)

    step: int
    scores: dict[str, float]
    jaccard: float | None
    """Of the kept layers with those of the probe before; `None` for the first."""
    cost_tokens: float
    """As `ScoreResult.cost_tokens`."""


class RankingStop(TrainerCallback):  # type: ignore[misc]
    """Probes the adapter every so often; stops once `patience` probes in a row agree.

    Args:
        layers: those that are adapted, in layer order.
        rows: conversations that the scorer sees.
        settings: how often, by which scorer, and what counts as agreement.
        planned: steps of the whole schedule.
        seed: of the scorer's rows: all probes see the same.
        micro_batch: most conversations per forward pass.
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
        jaccard = None
        if self.probes:
            jaccard = kept_agreement(self.probes[-1].scores, found.scores, settings.keep)
        self.probes.append(
            Probe(
                step=state.global_step,
                scores=found.scores,
                jaccard=jaccard,
                cost_tokens=found.cost_tokens,
            )
        )
        self.settled = at_rest([probe.jaccard for probe in self.probes], settings)
        control.should_training_stop |= self.settled


class GateStop(TrainerCallback):  # type: ignore[misc]
    """Looks at the scores that are learned every so often; stops once they rank the same layers.

    Args:
        scores: the scores as they are now, in layer order.
        settings: how often, and what counts as agreement.
        planned: gate batches of the whole schedule.
    """

    def __init__(
        self, scores: Callable[[], dict[str, float]], settings: RestSettings, *, planned: int
    ) -> None:
        self._scores, self._settings = scores, settings
        self._every = max(1, round(settings.every * planned))
        self._last: dict[str, float] | None = None
        self.looks: list[tuple[int, float | None]] = []
        """Step, and the Jaccard of the kept layers with those of the look before."""

    def state(self) -> dict[str, Any]:
        return {"last": self._last, "looks": self.looks}

    def restore(self, state: dict[str, Any]) -> None:
        self._last = state["last"]
        self.looks = [(step, jaccard) for step, jaccard in state["looks"]]

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step % self._every:
            return
        scores = self._scores()
        jaccard = None
        if self._last is not None:
            jaccard = kept_agreement(self._last, scores, self._settings.keep)
        self._last = scores
        self.looks.append((state.global_step, jaccard))
        jaccards = [jaccard for _, jaccard in self.looks]
        control.should_training_stop |= at_rest(jaccards, self._settings)
