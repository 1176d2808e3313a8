"""What a run is (`Profile`, frozen, hashed) and where it happens (`RuntimeConfig`, never hashed).

Identity and circumstance are two types on purpose: no key function accepts a `RuntimeConfig`, so a
device or a path cannot change a key. Every field is required unless its default is a real
default; a run profile is complete by itself and inherits from nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from ila_core.errors import UserError

BASE = "base"
"""Stands where an arm's name does for the model before any fine-tuning."""

Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
Name = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$", max_length=80)


class Frozen(BaseModel):
    """Base of everything that is hashed: immutable, and a misspelt field is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )


class ModelConfig(Frozen):
    """One base model (`profiles/models/*.yaml`)."""

    name: str = Name
    source: str
    """Hub id (`mistralai/Mistral-7B-v0.1`) or local folder (starts with `.`, `/` or `${`)."""
    revision: str | None = None
    """Hub commit. `null`: not looked up yet; the first online run resolves and locks it."""
    architecture: dict[str, Any]
    """Published configuration fields that the meta device needs, `model_type` among them."""
    dtype: Literal["float32", "bfloat16", "float16"]
    template: str | None = None
    """Jinja chat template; `null` uses the tokenizer's own; it is an error when both lack one."""
    pad_token: str | None = None
    """`null` uses the tokenizer's own, and it is an error when both lack one."""
    lm_head: Literal["adapt", "untie", "exclude"]
    """`adapt`: a layer like the others; `untie`: cloned from the embedding; `exclude`: no layer."""
    notes: str = ""

    @property
    def local(self) -> bool:
        """Whether `source` is a folder rather than a hub id."""
        return self.source.startswith((".", "/", "~"))


class DatasetConfig(Frozen):
    """One alignment dataset: which loader reads it, and from where."""

    name: str = Name
    loader: str
    """An entry of `ila_core.data.DATASETS`."""
    path: str | None = None
    """Local file; `null` reads from the hub. Never hashed: the content is."""
    revision: str | None = None
    """Hub commit; `null` is resolved and locked by the first online run."""


class DataConfig(Frozen):
    """How conversations become token rows and splits."""

    max_length: int = Field(ge=8)
    """Tokens per conversation; longer ones are cut at the end."""
    held_out_fraction: float = Field(gt=0, lt=1)
    gate_fraction: float = Field(ge=0, lt=1)
    """Rows kept from stage 1 for the gates; 0 when the gates use the training rows."""
    split_seed: int = 0


class LoraSettings(Frozen):
    r: int = Field(ge=1)
    alpha: float = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)


class Schedule(Frozen):
    """Peak learning rate and length of one training, in epochs or in optimizer steps."""

    lr: float = Field(gt=0)
    epochs: float | None = Field(default=None, gt=0)
    steps: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of `epochs` and `steps`")
        return self


class OptimizerSettings(Frozen):
    """AdamW as in Appendix B. `batch_size` counts conversations per optimizer step."""

    batch_size: int = Field(ge=1)
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = Field(ge=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(ge=0, lt=1)
    max_grad_norm: float = Field(ge=0)
    """0 switches clipping off."""


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
    """Which rows a scorer sees that needs no training (`ila_core.scorers`), and how many."""

    rows: Literal["gate", "train"]
    batches: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    """Conversations per batch."""


class RankingStopSettings(Frozen):
    """Stage 1 also stops once the ranking has stopped moving (`ila_core.ranking_stop`)."""

    scorer: str
    """An entry of `ila_core.scorers.SCORERS`: gate learning would cost too much on the way."""
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
    """Of the layers, and of the weights, that are closed; 0 and 1 are always measured."""
    random_orders: int = Field(ge=2)
    """Of either control: any order, and within the ranking's own sequence of layer types."""


class ControlSettings(Frozen):
    """The positive control: noise planted in some layers must be found at the bottom."""

    seeds: Seeds
    """Which layers, and what noise."""
    fraction: float = Field(gt=0, lt=1)
    """Of the layers that are corrupted."""
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
    """Whose scores rank the layers: `ila` (stage 2) or an entry of `ila_core.scorers.SCORERS`."""
    scoring: ScorerSettings
    """For every scorer but `ila`."""
    evidence: EvidenceSettings
    control: ControlSettings


class ArmConfig(Frozen):
    """One fine-tuning arm: a policy and what it needs."""

    name: str = Name
    policy: str
    """An entry of `ila_core.selection.POLICIES`."""
    source: str | None = None
    """`ila`: the dataset whose scores decide."""
    like: str | None = None
    """`freeze_random`: the arm whose trainable parameters are matched."""
    seed: int = 0
    """`freeze_random`: the draw."""


class FinetuneConfig(Schedule):
    dataset: str
    method: str
    """An entry of `ila_core.methods.METHODS`."""
    lora: LoraSettings
    optimizer: OptimizerSettings
    seeds: Seeds
    arms: tuple[ArmConfig, ...] = Field(min_length=1)


class EvaluateConfig(Frozen):
    benchmarks: tuple[str, ...] = Field(min_length=1)
    """Entries of `ila_core.benchmarks.BENCHMARKS`."""
    against: str
    """The arm every other arm is compared with."""
    resamples: int = Field(ge=100)
    """Paired bootstrap resamples over conversations."""
    confidence: float = Field(gt=0, lt=1)
    seed: int = 0


class Profile(Frozen):
    """One complete run (`profiles/runs/*.yaml`)."""

    name: str = Name
    description: str
    model: ModelConfig
    datasets: tuple[DatasetConfig, ...] = Field(min_length=1)
    data: DataConfig
    search: SearchConfig
    finetune: FinetuneConfig
    evaluate: EvaluateConfig
    sources: dict[str, str] = {}
    """Dotted field to where its value comes from: `paper, Appendix B.1` or `ours: reason`."""

    @field_validator("datasets")
    @classmethod
    def _unique_datasets(cls, datasets: tuple[DatasetConfig, ...]) -> tuple[DatasetConfig, ...]:
        _refuse_repeats("datasets", [d.name for d in datasets])
        return datasets

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        datasets = [d.name for d in self.datasets]
        for name in self.search.schedules:
            _must_be_in("search.schedules", name, datasets)
        _must_be_in("finetune.dataset", self.finetune.dataset, datasets)
        arms = [arm.name for arm in self.finetune.arms]
        _refuse_repeats("finetune.arms", arms)
        _refuse_repeats("search.seeds", self.search.seeds)
        _refuse_repeats("finetune.seeds", self.finetune.seeds)
        if BASE in arms:
            raise ValueError(f"finetune.arms: {BASE!r} is what the untrained model is called")
        _must_be_in("evaluate.against", self.evaluate.against, arms)
        for i, arm in enumerate(self.finetune.arms):
            if arm.source is not None:
                _must_be_in(f"finetune.arms.{i}.source", arm.source, list(self.search.schedules))
            if arm.like is not None:
                _must_be_in(f"finetune.arms.{i}.like", arm.like, arms[:i])
        search = self.search
        rows = {"search.stage2": search.stage2.rows, "search.scoring": search.scoring.rows}
        if search.stage1.ranking_stop is not None:
            rows["search.stage1.ranking_stop.scoring"] = search.stage1.ranking_stop.scoring.rows
        for part, split in rows.items():
            if split == "gate" and self.data.gate_fraction == 0:
                raise ValueError(
                    f"{part}.rows is 'gate' but data.gate_fraction is 0: hold rows back "
                    f"(data.gate_fraction > 0) or use the training rows ({part}.rows: train)"
                )
        return self

    def dataset(self, name: str) -> DatasetConfig:
        """The dataset called `name`, which validation has proved to exist."""
        return next(d for d in self.datasets if d.name == name)


class RuntimeConfig(BaseModel):
    """Where and how a run happens. Recorded with each result, never part of a key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path
    """Everything this project writes by itself: lock, embedded MLflow, private checkpoints."""
    tracking_uri: str
    device: str = "auto"
    micro_batch: int = Field(default=8, ge=1)
    """Conversations per forward pass while training."""
    eval_batch: int = Field(default=32, ge=1)
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    """Least time between two checkpoints of a training; 0 writes one after every step."""
    progress: bool = True

    @property
    def checkpoints(self) -> Path:
        """Private checkpoints of trainings that are not finished, a folder each."""
        return self.home / "checkpoints"

    @field_validator("device")
    @classmethod
    def _without_number(cls, device: str) -> str:
        if ":" in device:  # Trainer takes the first one, wherever the model is
            raise ValueError("give the kind alone, and choose one with CUDA_VISIBLE_DEVICES")
        return device

    @classmethod
    def from_env(cls) -> RuntimeConfig:
        """Read `ILA_HOME`, `ILA_DEVICE`, `ILA_MICRO_BATCH` ... from the environment.

        Raises:
            UserError: a variable whose value cannot be used.
        """
        home = Path(os.environ.get("ILA_HOME", ".ila")).expanduser().absolute()
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{quote(str(home / 'mlflow.db'))}"
        variables = {"device": "ILA_DEVICE", "micro_batch": "ILA_MICRO_BATCH"}
        variables["eval_batch"] = "ILA_EVAL_BATCH"
        variables["checkpoint_seconds"] = "ILA_CHECKPOINT_SECONDS"
        given = {field: os.environ[v] for field, v in variables.items() if os.environ.get(v)}
        try:
            return cls.model_validate({"home": home, "tracking_uri": uri, **given})
        except ValidationError as error:
            first = error.errors()[0]
            field = str(first["loc"][0])
            raise UserError(f"{variables[field]}={given[field]}: {first['msg']}") from error


def _refuse_repeats(field: str, given: Sequence[str | int]) -> None:
    repeated = dict.fromkeys(str(x) for x in given if given.count(x) > 1)
    if repeated:
        raise ValueError(f"{field}: {', '.join(repeated)} given more than once")


def _must_be_in(field: str, given: str, allowed: list[str]) -> None:
    if given not in allowed:
        raise ValueError(
            f"{field}: {given!r} is not one of {', '.join(map(repr, allowed)) or 'none'}"
        )
