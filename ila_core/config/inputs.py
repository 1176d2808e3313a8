"""The base model, the datasets, and how conversations become token rows."""

import re
from typing import Any, Literal

from pydantic import Field, field_validator

from ila_core.config.base import Frozen, Name, Relation


class ModelConfig(Frozen):
    """One base model (`profiles/models/*.yaml`)."""

    name: str = Name
    source: str
    """Hub id (`mistralai/Mistral-7B-v0.1`) or local folder (starts with `.`, `/` or `${`)."""
    revision: str | None = None
    """Hub commit. `null`: not looked up yet; the first online run resolves and locks it."""
    architecture: dict[str, Any]
    """Published configuration fields that the meta device needs, `model_type` among them."""
    dtype: Literal["float32", "bfloat16"]
    template: str | None = None
    """Jinja chat template; `null` uses the tokenizer's own; it is an error when both lack one."""
    pad_token: str | None = None
    """`null` uses the tokenizer's own. None is needed: where batches are padded, any will do."""
    lm_head: Literal["adapt", "untie", "exclude"]
    """`adapt`: a layer like the others; `untie`: cloned from the embedding; `exclude`: no layer."""
    exclude: tuple[str, ...] = ()
    """Layers that are left out: full names of modules, all below included, or regular expressions
    that match layers' full names whole. One that matches nothing is an error."""
    allow_uncovered: bool = False
    """Go on where more than 5 % of the matrix weights lie outside of the layers, such as experts
    that are no linear modules; the log then says what does."""
    notes: str = ""
    related: dict[str, Relation] = {}  # noqa: RUF012  # pydantic copies it
    """Base models whose rankings may serve this one though its weights are others, and how this
    one stems from each: `{mistral-7b: instruct}`. Hashed by a selection that reads such a one."""

    @field_validator("dtype", mode="before")
    @classmethod
    def _no_float16(cls, given: object) -> object:
        if given == "float16":
            raise ValueError(
                "float16 needs loss scaling, which is not done here: without it gradients are off "
                "by 11 to 15 %, and so is a ranking; allowed: bfloat16, float32"
            )
        return given

    @field_validator("exclude")
    @classmethod
    def _expressions(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for entry in given:
            try:
                re.compile(entry)
            except re.error as error:
                raise ValueError(f"{entry!r} is no regular expression: {error}") from error
        return given

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
    licence: str | None = None
    """The licence of a file; a hub dataset has its loader's. Shown on ranking cards."""
    stands_for: str | None = None
    """A dataset of the paper, in whose place it is shown beside the paper's numbers."""


class DataConfig(Frozen):
    """How conversations become token rows and splits."""

    max_length: int = Field(ge=8)
    """Tokens per conversation; longer ones are cut at the end."""
    held_out_fraction: float = Field(gt=0, lt=1)
    gate_fraction: float = Field(ge=0, lt=1)
    """Rows kept from stage 1 for the gates; 0 when the gates use the training rows."""
    split_seed: int = 0
