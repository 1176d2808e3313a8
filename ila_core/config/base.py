"""What the parts of a profile have in common."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What every generator of random numbers takes; NumPy's takes 32 bits."""
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1)]
Relation = Literal["instruct", "mirror", "quantised", "further_pretrained"]
"""How a model can stem from another so that a ranking of the one may serve the other."""
Name = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$", max_length=80)


class Frozen(BaseModel):
    """Base of everything that is hashed: immutable, and a misspelt field is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, given: Any) -> Any:
        """Refuse `true` and `yes` where pydantic would take them for 1."""
        for name, value in given.items() if isinstance(given, dict) else ():
            values = value if isinstance(value, list | tuple) else [value]
            if name in cls.model_fields and any(isinstance(x, bool) for x in values):
                taken = _types_in(cls.model_fields[name].annotation)
                if {int, float} & taken and bool not in taken:
                    raise ValueError(f"{name}: given {value!r}; allowed is a number")
        return given


class FrozenResult(BaseModel):
    """Base of what a computation gives: immutable, and a number in it may be infinite."""

    model_config = ConfigDict(frozen=True)


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
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.99, ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(ge=0, lt=1)
    max_grad_norm: float = Field(ge=0)
    """0 switches clipping off."""


def _types_in(annotation: Any) -> set[Any]:
    inner = get_args(annotation)
    return set().union(*map(_types_in, inner)) if inner else {annotation}


def refuse_repeats(field: str, given: Sequence[str | float]) -> None:
    repeated = dict.fromkeys(str(x) for x in given if given.count(x) > 1)
    if repeated:
        raise ValueError(f"{field}: {', '.join(repeated)} given more than once")


def must_be_in(field: str, given: str, allowed: list[str]) -> None:
    if given not in allowed:
        raise ValueError(
            f"{field}: {given!r} is not one of {', '.join(map(repr, allowed)) or 'none'}"
        )
