"""Methods, arms, and what they are compared by."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ila_core.config.base import (
    Frozen,
    LoraSettings,
    Name,
    OptimizerSettings,
    Schedule,
    Seed,
    Seeds,
    must_be_in,
    refuse_repeats,
)

BASE = "base"
"""Stands where an arm's name does for the model before any fine-tuning."""
METHODS_WITH_SETTINGS = ("lora", "qlora", "adalora", "full")


class ArmConfig(Frozen):
    """One fine-tuning arm: a policy, how much it may train, and by which method."""

    name: str = Name
    method: str | None = None
    """An entry of `ila_core.train.methods.METHODS`; `null` is the run's own (`finetune.method`)."""
    policy: str
    """An entry of `ila_core.selection.select.POLICIES`."""
    source: str | None = None
    """The dataset whose scores decide, for policies that read one dataset's."""
    like: str | None = None
    """`freeze_random`: the arm that it is a control of; `per_cost`: whose parameters it has."""
    match: Literal["parameters", "layers"] = "parameters"
    """`freeze_random`: what it has in common with that arm."""
    seed: Seed = 0
    """`freeze_random`: the draw."""
    votes: int = Field(default=2, ge=1)
    """`vote`: datasets that must agree."""
    keep: float | None = Field(default=None, gt=0, le=1)
    """Fraction of layers that train; without any limit it is `search.keep`."""
    layers: int | None = Field(default=None, ge=1)
    """Number of layers that train."""
    parameters: int | None = Field(default=None, ge=1)
    """Most parameters that train in the layers, under the arm's method. Embeddings and norms, which
    full fine-tuning trains as well, come on top."""
    memory: int | None = Field(default=None, ge=1)
    """Most bytes that the training may take (`ila_core.train.forecast`)."""
    micro_batch: int = Field(default=8, ge=1)
    """`memory`: conversations per forward pass that it is counted for, `ILA_MICRO_BATCH`."""
    seconds: float | None = Field(default=None, gt=0)
    """Most time that the training may take."""
    flops_per_second: float | None = Field(default=None, gt=0)
    """`seconds`: how fast the machine trains this model; `ila forecast` measures it."""

    @property
    def limits(self) -> dict[str, float]:
        """The limit that was given, if one was, by its field."""
        given = {f: getattr(self, f) for f in ("keep", "layers", "parameters", "memory", "seconds")}
        return {field: limit for field, limit in given.items() if limit is not None}

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if len(self.limits) > 1:
            raise ValueError(f"give one of {', '.join(self.limits)}, not several")
        if self.seconds is not None and self.flops_per_second is None:
            raise ValueError(
                "seconds needs flops_per_second, the speed of this model's training on the machine "
                "that is meant; `ila forecast PROFILE` prints that of this one"
            )
        return self


class LoraMethod(LoraSettings, Schedule):
    """LoRA and QLoRA."""

    states: ClassVar[int] = 2
    """Floats held for each that trains, beside it and its gradient: AdamW's moments."""

    def parameters(self, shape: tuple[int, int]) -> int:
        """What training a layer of this shape trains: A is r x in, B is out x r."""
        return self.r * sum(shape)


class AdaLoraMethod(LoraMethod):
    """AdaLoRA: `r` is the average rank that remains, the paper's t_r."""

    states: ClassVar[int] = 5
    """And the importance, its mean and its spread."""
    initial_r: int = Field(ge=1)
    """Rank of every layer until ranks begin to fall."""
    warmup: float = Field(ge=0, lt=1)
    """Fraction of the steps before ranks begin to fall."""
    final: float = Field(ge=0, lt=1)
    """Fraction of the steps, the last ones, with the ranks that remain."""
    every: int = Field(ge=1)
    """Steps from one allocation of ranks to the next."""
    beta1: float = Field(gt=0, lt=1)
    beta2: float = Field(gt=0, lt=1)
    """How slowly the sensitivity of the singular values, and its uncertainty, are averaged."""
    orthogonality: float = Field(gt=0)
    """Weight of the penalty that keeps P and Q orthogonal."""

    def parameters(self, shape: tuple[int, int]) -> int:
        """At the start, with a singular value for each rank."""
        return self.initial_r * (sum(shape) + 1)

    @model_validator(mode="after")
    def _ranks_fall(self) -> Self:
        if self.initial_r <= self.r:
            raise ValueError(f"initial_r {self.initial_r} must be above r {self.r}, what remains")
        if self.warmup + self.final >= 1:
            raise ValueError("warmup and final leave no step in which ranks could fall")
        return self


class FullMethod(Schedule):
    """The selected weights themselves, with the embeddings and norms."""

    states: ClassVar[int] = 2

    def parameters(self, shape: tuple[int, int]) -> int:
        """Return the number of entries of the layer's weight."""
        return shape[0] * shape[1]


MethodSettings = LoraMethod | FullMethod

_Positive = Annotated[float, Field(gt=0)]


class TuneGrid(Frozen):
    """Every learning rate with every length."""

    lr: tuple[_Positive, ...] = Field(min_length=1)
    epochs: tuple[_Positive, ...] = ()
    steps: tuple[Annotated[int, Field(ge=1)], ...] = ()

    def points(self) -> list[dict[str, float | int | None]]:
        """The fields of a `Schedule`, point by point."""
        length = "epochs" if self.epochs else "steps"
        return [
            {"lr": lr, "epochs": None, "steps": None, length: value}
            for lr in self.lr
            for value in self.epochs or self.steps
        ]

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if bool(self.epochs) == bool(self.steps):
            raise ValueError("give exactly one of `epochs` and `steps`")
        refuse_repeats("lr", self.lr)
        refuse_repeats("epochs or steps", self.epochs or self.steps)
        return self


class TuneConfig(Frozen):
    """What `ila tune` tries, by method. Settings belong to a method: its other arms follow."""

    arms: tuple[str, ...] = Field(default=("all",), min_length=1)
    """Each is trained with every point of its method's grid."""
    lora: TuneGrid | None = None
    qlora: TuneGrid | None = None
    adalora: TuneGrid | None = None
    full: TuneGrid | None = None

    @property
    def grids(self) -> dict[str, TuneGrid]:
        found = {method: getattr(self, method) for method in METHODS_WITH_SETTINGS}
        return {method: grid for method, grid in found.items() if grid is not None}


class FinetuneConfig(Frozen):
    dataset: str
    other_datasets: tuple[str, ...] = ()
    """Datasets that the settings below are as good for: tables of the paper ask for several."""
    method: str
    """An entry of `ila_core.train.methods.METHODS`: how arms that name none are trained."""
    lora: LoraMethod | None = None
    qlora: LoraMethod | None = None
    adalora: AdaLoraMethod | None = None
    full: FullMethod | None = None
    optimizer: OptimizerSettings
    seeds: Seeds
    watch: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Fractions of the steps at which held-out loss is taken on the way."""
    arms: tuple[ArmConfig, ...] = Field(min_length=1)
    tune: TuneConfig | None = None

    def method_of(self, arm: ArmConfig) -> str:
        return arm.method or self.method

    def settings_of(self, arm: ArmConfig) -> MethodSettings:
        """How the arm is trained; validation has proved it to be given."""
        settings: MethodSettings = getattr(self, self.method_of(arm))
        return settings

    @model_validator(mode="after")
    def _methods_are_given(self) -> Self:
        known = METHODS_WITH_SETTINGS
        given = [method for method in known if getattr(self, method) is not None]
        for arm in self.arms:
            method = self.method_of(arm)
            if method not in known:
                must_be_in("method", method, list(known))
            if method not in given:
                raise ValueError(
                    f"arm {arm.name!r} is trained by {method}, whose settings "
                    f"(finetune.{method}) are not given; given are {', '.join(given) or 'none'}"
                )
        for method in self.tune.grids if self.tune else ():
            if method not in given:
                raise ValueError(
                    f"tune.{method} searches for the lr and length of {method}, whose other "
                    f"settings (finetune.{method}) are not given"
                )
        return self
