"""What the parts of a profile have in common."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What every generator of random numbers takes; NumPy's takes 32 bits."""
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1)]
Relation = Literal["instruct", "mirror", "quantised", "further_pretrained"]
"""How a model can stem from another so that a ranking of the one may serve the other."""


LONGEST_NAME = 80


def plain_name(text: str, fallback: str) -> str:
    """What a name may have of a file's or a folder's: letters lose their accents."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^\w.-]+", "-", plain).strip("-._")[:LONGEST_NAME].rstrip("-._") or fallback


def named(source: str | None = None) -> Any:
    """A field that is a name, of letters, digits and `_.-`; where it comes from if left out."""
    extra: dict[str, Any] | None = None if source is None else {"source": source}
    return Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$", max_length=LONGEST_NAME, json_schema_extra=extra
    )


def default(value: Any, source: str, **constraints: Any) -> Any:
    """A field of a profile that may be left out.

    Args:
        value: what it is then; a function of the fields before it where they decide. `None`, or
            `auto`, where the model or the data decide (`ila_core.config.derived`).
        source: where the value comes from: `paper, section 4.1` or `ours: why`.
        constraints: as of pydantic's `Field`.
    """
    given = {"default_factory": value} if callable(value) else {"default": value}
    return Field(**given, **constraints, json_schema_extra={"source": source})


Name = named()


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
    """The adapter that stage 1 trains on every layer."""

    r: int = default(32, "paper, Appendix B", ge=1)
    """LoRA's rank."""
    alpha: float = default(
        lambda given: 2.0 * given.get("r", 1), "ours: the paper does not say; 2 r", gt=0
    )
    """LoRA's scale is alpha / r."""
    dropout: float = default(
        0.1, "paper, Appendix B; ours: 0 where experts are layers, as PEFT has it", ge=0, lt=1
    )
    """The share of a LoRA branch's inputs that is dropped in training."""


class Schedule(Frozen):
    """Peak learning rate and length of one training, in epochs or in optimizer steps."""

    lr: float = default(
        2e-4, "paper, Appendix B: Mistral-7B's, and Llama 2-7B's on Alpaca-GPT4", gt=0
    )
    """The peak learning rate."""
    epochs: float | None = default(
        None,
        "paper, Appendix B: Llama 2-7B's, by the number of conversations",
        gt=0,
    )
    """How often the training rows are seen."""
    steps: int | None = default(None, "ours: in place of `epochs`", ge=1)
    """Optimizer steps."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give one of `epochs` and `steps`, not both")
        return self


class OptimizerSettings(Frozen):
    """AdamW as in Appendix B."""

    batch_size: int = default(32, "paper, section 4.4 (Observation 3)", ge=1)
    """Conversations per optimizer step."""
    beta1: float = default(0.9, "paper, Appendix B", ge=0, lt=1)
    """How slowly Adam's mean of the gradients moves."""
    beta2: float = default(0.99, "paper, Appendix B", ge=0, lt=1)
    """How slowly Adam's mean of their squares moves."""
    weight_decay: float = default(0.1, "paper, Appendix B", ge=0)
    """AdamW's weight decay."""
    schedule: Literal["cosine", "linear", "constant"] = default("cosine", "paper, Appendix B")
    """How the learning rate falls after its warm-up."""
    warmup_ratio: float = default(0.01, "paper, Appendix B", ge=0, lt=1)
    """Share of the steps in which the learning rate rises to its peak."""
    max_grad_norm: float = default(1.0, "ours: the paper does not say", ge=0)
    """The gradient is scaled to this norm where it is longer; 0 switches that off."""


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
