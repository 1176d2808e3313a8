"""Both stages of the search, its scorers, its evidence and its control."""

from typing import Annotated, Literal

from pydantic import Field

from ila_core.config.base import (
    Frozen,
    LoraSettings,
    OptimizerSettings,
    Schedule,
    Seeds,
    default,
)


class StabilitySettings(Frozen):
    """Definition 1, measured: the mean loss of consecutive windows changes by less than epsilon."""

    epsilon: float = default(0.01, "ours: the paper does not say", gt=0)
    """Absolute change of the mean token loss, in nats."""
    window: int = default(50, "ours: the paper does not say", ge=1)
    """Optimizer steps per window."""
    patience: int = default(2, "ours: the paper does not say", ge=1)
    """Consecutive windows that must be stable."""
    floor: float = default(
        0.25, "paper, section 4.4 (Observation 3): 25 to 50 % is sufficient", ge=0, le=1
    )
    """Fraction of the planned steps before which the loss ends no training."""
    ceiling: float = default(
        0.5, "paper, section 4.4 (Observation 3): 25 to 50 % is sufficient", gt=0, le=1
    )
    """Fraction of the planned steps at which training stops, stable or not."""


class ScorerSettings(Frozen):
    """Which rows a scorer sees that needs no training (`ila_core.search.scorers`), and how many."""

    rows: Literal["gate", "train"] = default("train", "ours: those of stage 1")
    """The split whose rows are read."""
    batches: int = default(8, "ours: measured in docs/LOG.md", ge=1)
    """Batches that are read."""
    batch_size: int = default(32, "ours: that of stage 1", ge=1)
    """Conversations per batch."""


class RankingStopSettings(Frozen):
    """Stage 1 also stops once the ranking has stopped moving (`ila_core.search.ranking_stop`)."""

    scorer: str = default("gate_gradient", "ours: the cheapest that reads rows")
    """An entry of `ila_core.search.scorers.SCORERS`: gates would cost too much on the way."""
    scoring: ScorerSettings = ScorerSettings()
    every: float = default(0.05, "ours", gt=0, lt=1)
    """Fraction of the planned steps between two probes."""
    keep: float = default(0.75, "paper, section 4.1: top 75 %", gt=0, lt=1)
    """Fraction of layers whose agreement counts."""
    agree: float = default(0.93, "ours: measured in docs/LOG.md", ge=0, le=1)
    """Jaccard of the kept layers from one probe to the next, at least."""
    patience: int = default(2, "ours", ge=1)
    """Consecutive probes that must agree with the one before."""


class Stage1Settings(Frozen):
    """Stage 1: LoRA on every layer until the loss is stable."""

    lora: LoraSettings = LoraSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    stability: StabilitySettings = StabilitySettings()
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = default((), "ours: none")
    """Fractions of the planned steps at which the adapter is kept as well."""
    ranking_stop: RankingStopSettings | None = default(
        None, "paper, Algorithm 1: the loss alone decides"
    )
    """When the ranking itself ends stage 1; `null`: never."""


class Stage2Settings(Frozen):
    """Gate learning (Eq. 5-7)."""

    rows: Literal["gate", "train"] = default("train", "paper, section 2: the alignment dataset")
    """The split whose rows the gates learn from."""
    batches: int = default(128, "paper, section 4.4 (Observation 3)", ge=1)
    """Gate batches, one update each."""
    batch_size: int = default(32, "paper, section 4.4 (Observation 3)", ge=1)
    """Conversations per gate batch."""
    initial_score: float = default(0.0, "ours: half open; started open, near chance (docs/LOG.md)")
    """Every layer's score before the first update; its gate is the sigmoid of it."""
    optimizer: Literal["sgd", "adam"] = default("sgd", "paper, section 2: gradient descent")
    """What learns the gates."""
    lr: float = default(5.0, "ours: the paper does not say", gt=0)
    """The gates' learning rate."""
    weight_decay: float = default(0.0, "ours: the paper does not say", ge=0)
    """Decay of the scores."""
    schedule: Literal["constant", "linear", "cosine"] = default(
        "constant", "ours: the paper does not say"
    )
    """How the gates' learning rate falls."""
    max_grad_norm: float = default(0.0, "ours: the paper does not say", ge=0)
    """The gates' gradient is scaled to this norm where it is longer; 0 switches that off."""


class EvidenceSettings(Frozen):
    """The mask curves: what closing the lowest-scored adapters costs (Eqs. 1 and 3, evaluated)."""

    scorers: tuple[str, ...] = default(
        ("integrated_gradients", "gate_gradient", "lora_norm", "size"), "ours"
    )
    """Beside `search.scorer`; none of them is needed for the ranking."""
    held_out: int = default(64, "ours", ge=1)
    """Held-out conversations that the curves are measured on, at most."""
    fractions: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = default(
        (0.1, 0.25, 0.5), "ours", min_length=1
    )
    """Fractions of the layers and of the weights to close; 0 and 1 are always measured."""
    random_orders: int = default(20, "ours", ge=2)
    """Orders of each control: any order, and within the ranking's sequence of layer types."""


class ControlSettings(Frozen):
    """The positive control: noise planted in some layers must be found at the bottom."""

    seeds: Seeds = default((0, 1, 2), "ours")
    """Which layers, and what noise."""
    fraction: float = default(0.25, "ours", gt=0, lt=1)
    """The fraction of the layers that is corrupted."""
    factor: float = default(3.0, "ours", gt=0)
    """Standard deviation of the noise, in those of the B that it replaces."""


class SearchConfig(Frozen):
    """The search for the layers that matter."""

    datasets: tuple[str, ...] = default((), "ours: all of them")
    """The datasets that are searched."""
    schedules: dict[str, Schedule] = default({}, "paper, Appendix B: each dataset has its own")
    """Dataset name to its stage-1 schedule."""
    seeds: Seeds = default((0,), "ours: the paper does not say")
    """Search seeds: adapter initialisation, data order and gate batches."""
    keep: float = default(0.75, "paper, section 4.1: top 75 %", gt=0, le=1)
    """Fraction of layers that `ila` trains and that agreement is measured on."""
    least: float = default(
        0.25, "ours: the paper leaves the K of its intersection open", gt=0, lt=1
    )
    """Fraction of least important layers per dataset that `intersection` intersects."""
    stage1: Stage1Settings = Stage1Settings()
    stage2: Stage2Settings = Stage2Settings()
    scorer: str = default("ila", "paper, section 2: gate learning (Algorithm 1)")
    """Whose scores rank the layers: `ila` (stage 2) or one of `ila_core.search.scorers.SCORERS`."""
    scoring: ScorerSettings = ScorerSettings()
    """For every scorer but `ila`."""
    evidence: EvidenceSettings = EvidenceSettings()
    control: ControlSettings = ControlSettings()
