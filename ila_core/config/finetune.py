"""Methods, arms, and what they are compared by."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, model_validator

from ila_core.config.base import (
    Frozen,
    LoraSettings,
    Name,
    OptimizerSettings,
    Schedule,
    Seed,
    Seeds,
    default,
    must_be_in,
    refuse_repeats,
)

BASE = "base"
"""Stands where an arm's name does for the model before any fine-tuning."""
METHODS_WITH_SETTINGS = ("lora", "qlora", "adalora", "full")
_SHARED = {
    "qlora": ("lr", "r", "alpha", "dropout"),
    "adalora": ("lr", "r", "dropout"),
}
"""What a method that is not given it has of LoRA, its length besides."""


class ArmConfig(Frozen):
    """One fine-tuning arm: a policy, how much it may train, and by which method."""

    name: str = Name
    """What the arm is called."""
    method: str | None = default(None, "`finetune.method`")
    """An entry of `ila_core.train.methods.METHODS`."""
    policy: str
    """An entry of `ila_core.selection.select.POLICIES`."""
    source: str | None = default(None, "ours: `finetune.dataset`, in the usual arm `ila`")
    """The dataset whose scores decide, for policies that read one dataset's."""
    like: str | None = default(None, "ours: `ila`, in the usual arm `random`")
    """`freeze_random`: the arm that it is a control of; `per_cost`: whose parameters it has."""
    match: Literal["parameters", "layers"] = default("parameters", "ours: a control at equal cost")
    """`freeze_random`: what it has in common with that arm."""
    seed: Seed = default(0, "ours")
    """`freeze_random`: the draw."""
    votes: int = default(2, "ours: of the paper's three datasets", ge=1)
    """`vote`: datasets that must agree."""
    keep: float | None = default(None, "`search.keep` where no other limit is given", gt=0, le=1)
    """Fraction of layers that train."""
    layers: int | None = default(None, "ours: no limit", ge=1)
    """Number of layers that train."""
    parameters: int | None = default(None, "ours: no limit", ge=1)
    """Most parameters that train in the layers, under the arm's method. Embeddings and norms, which
    full fine-tuning trains as well, come on top."""
    memory: int | None = default(None, "ours: no limit", ge=1)
    """Most bytes that the training may take (`ila_core.train.forecast`)."""
    micro_batch: int = default(8, "ours: that of `ILA_MICRO_BATCH`", ge=1)
    """`memory`: conversations per forward pass that it is counted for, `ILA_MICRO_BATCH`."""
    seconds: float | None = default(None, "ours: no limit", gt=0)
    """Most time that the training may take."""
    flops_per_second: float | None = default(None, "ours: none", gt=0)
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


def per_rank(shape: tuple[int, ...]) -> int:
    """Count the parameters of LoRA at rank 1 on (out, in), or on (experts, out, in)."""
    return math.prod(shape[:-2]) * sum(shape[-2:])


class LoraMethod(LoraSettings, Schedule):
    """LoRA and QLoRA. What QLoRA is not given, it has of LoRA, as the paper's tables do."""

    states: ClassVar[int] = 2
    """Floats held for each that trains, beside it and its gradient: AdamW's moments."""

    def parameters(self, shape: tuple[int, ...]) -> int:
        """What training a layer of this shape trains: A is r x in, B is out x r, of each expert."""
        return self.r * per_rank(shape)


def _initial_rank(given: Mapping[str, Any]) -> int:
    return math.ceil(1.5 * int(given.get("r", 1)))  # a rank that is refused is not among them


class AdaLoraMethod(LoraMethod):
    """AdaLoRA: `r` is the average rank that remains, the paper's t_r.

    What it is not given of LoRA's learning rate, length, rank and dropout, it has of LoRA.
    """

    states: ClassVar[int] = 5
    """And the importance, its mean and its spread."""
    initial_r: int = default(
        _initial_rank,
        "ours: 1.5 times what remains, as in AdaLoRA's own experiments",
        ge=1,
    )
    """Rank of every layer until ranks begin to fall."""
    alpha: float = default(
        lambda given: 2.0 * _initial_rank(given), "ours: twice the default initial_r", gt=0
    )
    """AdaLoRA's scale is alpha / r."""
    warmup: float = default(0.1, "ours: the paper does not say", ge=0, lt=1)
    """Fraction of the steps before ranks begin to fall."""
    final: float = default(0.3, "ours: the paper does not say", ge=0, lt=1)
    """Fraction of the steps, the last ones, with the ranks that remain."""
    every: int = default(10, "ours: the paper does not say", ge=1)
    """Steps from one allocation of ranks to the next."""
    beta1: float = default(0.85, "ours: AdaLoRA's default", gt=0, lt=1)
    """How slowly the sensitivity of the singular values is averaged."""
    beta2: float = default(0.85, "ours: AdaLoRA's default", gt=0, lt=1)
    """How slowly the uncertainty of the sensitivity is averaged."""
    orthogonality: float = default(0.5, "ours: PEFT's default", gt=0)
    """Weight of the penalty that keeps P and Q orthogonal."""

    def parameters(self, shape: tuple[int, ...]) -> int:
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

    lr: float = default(1e-5, "paper, Appendix B: Llama 2-7B's on LIMA and No Robots", gt=0)
    """The peak learning rate."""
    states: ClassVar[int] = 2

    def parameters(self, shape: tuple[int, ...]) -> int:
        """Return the number of entries of the layer's weight."""
        return math.prod(shape)


MethodSettings = LoraMethod | FullMethod

_Positive = Annotated[float, Field(gt=0)]


class TuneGrid(Frozen):
    """Every learning rate with every length."""

    lr: tuple[_Positive, ...] = Field(min_length=1)
    """Learning rates."""
    epochs: tuple[_Positive, ...] = default((), "ours: give one of the two")
    """Lengths in epochs."""
    steps: tuple[Annotated[int, Field(ge=1)], ...] = default((), "ours: give one of the two")
    """Lengths in optimizer steps."""

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

    arms: tuple[str, ...] = default(
        ("all",),
        "paper, Appendix B: baselines are searched, ILA takes their settings",
        min_length=1,
    )
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
    """What is fine-tuned, and how."""

    dataset: str = default("", "ours: the first one")
    """The dataset that arms are trained and evaluated on; several are mixed: `lima+mine`."""
    other_datasets: tuple[str, ...] = default((), "ours: none")
    """Datasets that the settings below are as good for: tables of the paper ask for several."""
    method: str = default("lora", "paper, section 3")
    """An entry of `ila_core.train.methods.METHODS`: how arms that name none are trained."""
    lora: LoraMethod = LoraMethod()
    qlora: LoraMethod = LoraMethod()
    adalora: AdaLoraMethod = AdaLoraMethod()
    full: FullMethod = FullMethod()
    optimizer: OptimizerSettings = OptimizerSettings()
    seeds: Seeds = default((0,), "ours: the paper does not say")
    """Seeds of the trainings: adapter initialisation and data order."""
    watch: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = default(
        (0.25, 0.5, 0.75), "ours: an arm that overfits is judged at its best step too"
    )
    """Fractions of the steps at which held-out loss is taken on the way."""
    arms: tuple[ArmConfig, ...] = default(
        (),
        "paper, section 4.2 and Table 9; ours: random layers with as many parameters",
    )
    """What is trained and compared: by default all layers, those of the ranking, those outside of
    the intersection where several datasets are searched, and random ones."""
    tune: TuneConfig | None = default(None, "ours: nothing is searched")
    """The grids of `ila tune`."""

    @model_validator(mode="before")
    @classmethod
    def _as_lora(cls, given: Any) -> Any:
        """Give QLoRA and AdaLoRA what they are not given themselves of LoRA's settings."""
        if not isinstance(given, dict) or not isinstance(given.get("lora"), dict):
            return given
        try:
            LoraMethod.model_validate(given["lora"])
        except ValidationError:
            return given  # what is wrong there is said once
        filled = dict(given)
        for method, shared in _SHARED.items():
            own = given.get(method, {})
            if isinstance(own, dict):
                length = () if {"epochs", "steps"} & {*own} else ("epochs", "steps")
                fields = [f for f in (*shared, *length) if f in given["lora"]]
                filled[method] = {f: given["lora"][f] for f in fields} | own
        return filled

    @property
    def mixed(self) -> list[str]:
        """The names of the datasets that arms are trained on together."""
        return self.dataset.split("+")

    def method_of(self, arm: ArmConfig) -> str:
        return arm.method or self.method

    def settings_of(self, arm: ArmConfig) -> MethodSettings:
        """How the arm is trained."""
        settings: MethodSettings = getattr(self, self.method_of(arm))
        return settings

    @model_validator(mode="after")
    def _methods_are_known(self) -> Self:
        for method in (self.method, *(arm.method for arm in self.arms)):
            if method is not None:
                must_be_in("method", method, list(METHODS_WITH_SETTINGS))
        return self


def usual_arms(dataset: str, searched: Sequence[str]) -> list[dict[str, Any]]:
    """The arms of a profile that gives none.

    Args:
        dataset: that is trained on; its ranking is taken where it, or a part of it, was searched.
        searched: the datasets that have a ranking.
    """
    source = next((name for name in dataset.split("+") if name in searched), searched[0])
    several = [{"name": "intersection", "policy": "intersection"}] if len(searched) > 1 else []
    return [
        {"name": "all", "policy": "all"},
        {"name": "ila", "policy": "ila", "source": source},
        *several,
        {"name": "random", "policy": "freeze_random", "like": "ila"},
    ]
