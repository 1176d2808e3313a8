"""Both stages of the search, its scorers, its evidence and its control."""

from typing import Annotated, Literal

from pydantic import Field

from ila_core.config.base import Frozen, LoraSettings, OptimizerSettings, Schedule, Seeds


class StabilitySettings(Frozen):
    """Definition 1, measured: the mean loss of consecutive windows changes by less than epsilon."""

    epsilon: float = Field(gt=0)
    """Absolute change of the mean token loss, in nats."""
    window: int = Field(ge=1)
    """Optimizer steps per window."""
    patience: int = Field(ge=1)
    """Consecutive windows that must be stable."""
    floor: float = Field(ge=0, le=1)
    """Fraction of the planned steps before which the loss ends no training."""
    ceiling: float = Field(gt=0, le=1)
    """Fraction of the planned steps at which training stops, stable or not."""


class ScorerSettings(Frozen):
    """Which rows a scorer sees that needs no training (`ila_core.search.scorers`), and how many."""

    rows: Literal["gate", "train"]
    batches: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    """Conversations per batch."""


class RankingStopSettings(Frozen):
    """Stage 1 also stops once the ranking has stopped moving (`ila_core.search.ranking_stop`)."""

    scorer: str
    """An entry of `ila_core.search.scorers.SCORERS`: gates would cost too much on the way."""
    scoring: ScorerSettings
    every: float = Field(gt=0, lt=1)
    """Fraction of the planned steps between two probes."""
    keep: float = Field(gt=0, lt=1)
    """Fraction of layers whose agreement counts."""
    agree: float = Field(ge=0, le=1)
    """Jaccard of the kept layers from one probe to the next, at least."""
    patience: int = Field(ge=1)
    """Consecutive probes that must agree with the one before."""


class Stage1Settings(Frozen):
    lora: LoraSettings
    optimizer: OptimizerSettings
    stability: StabilitySettings
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Fractions of the planned steps at which the adapter is kept as well."""
    ranking_stop: RankingStopSettings | None = None
    """`null`, as in the paper: the loss alone decides."""


class Stage2Settings(Frozen):
    """Gate learning (Eq. 5-7). The paper leaves all of it but `batches` and `batch_size` open."""

    rows: Literal["gate", "train"]
    batches: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    initial_score: float
    """0 is half open. Started open (4), a ranking is near chance (docs/LOG.md)."""
    optimizer: Literal["sgd", "adam"]
    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    schedule: Literal["constant", "linear", "cosine"]
    max_grad_norm: float = Field(ge=0)


class EvidenceSettings(Frozen):
    """The mask curves: what closing the lowest-scored adapters costs (Eqs. 1 and 3, evaluated)."""

    scorers: tuple[str, ...]
    """Beside `search.scorer`; none of them is needed for the ranking."""
    held_out: int = Field(ge=1)
    """Held-out conversations that the curves are measured on, at most."""
    fractions: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(min_length=1)
    """Fractions of the layers and of the weights to close; 0 and 1 are always measured."""
    random_orders: int = Field(ge=2)
    """Orders of each control: any order, and within the ranking's sequence of layer types."""


class ControlSettings(Frozen):
    """The positive control: noise planted in some layers must be found at the bottom."""

    seeds: Seeds
    """Which layers, and what noise."""
    fraction: float = Field(gt=0, lt=1)
    """The fraction of the layers that is corrupted."""
    factor: float = Field(gt=0)
    """Standard deviation of the noise, in those of the B that it replaces."""


class SearchConfig(Frozen):
    schedules: dict[str, Schedule] = Field(min_length=1)
    """Dataset name to its stage-1 schedule: the paper gives each dataset its own."""
    seeds: Seeds
    """Search seeds: adapter initialisation, data order and gate batches."""
    keep: float = Field(gt=0, le=1)
    """Fraction of layers that `ila` trains and that agreement is measured on."""
    least: float = Field(gt=0, lt=1)
    """Fraction of least important layers per dataset that `intersection` intersects."""
    stage1: Stage1Settings
    stage2: Stage2Settings
    scorer: str
    """Whose scores rank the layers: `ila` (stage 2) or one of `ila_core.search.scorers.SCORERS`."""
    scoring: ScorerSettings
    """For every scorer but `ila`."""
    evidence: EvidenceSettings
    control: ControlSettings
