"""The base model, the datasets, and how conversations become token rows."""

import re
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ila_core.config.base import Frozen, Name, Relation

_ENDING = re.compile(r"(\.(jsonl|ndjson|json|parquet|arrow|csv|tsv))?(\.(gz|zst))?$")


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
    template_variables: dict[str, str | bool | int] = {}  # noqa: RUF012
    """What the chat template is told besides: a date, or a switch such as `enable_thinking`."""
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
    """One alignment dataset. `lima` or `data/mine.jsonl` stands for `{source: ...}`.

    Nothing of it is hashed: the conversations are that it leads to.
    """

    name: str = Name
    """By default the source's last part, without its ending."""
    source: str
    """A name that ILA knows (`lima`), a hub id (`org/name`), a file, a folder or a pattern."""
    config: str | None = None
    """The configuration of a hub dataset that has several."""
    split: str = "train"
    """Which split of a hub dataset or a folder is read."""
    revision: str | None = None
    """Hub commit; `null` is resolved and locked by the first online run."""
    columns: dict[Literal["user", "assistant", "system", "messages"], str] = {}  # noqa: RUF012
    """Which field holds what, where its name does not say: `{user: question, assistant: best}`."""
    answer: Literal["chosen"] | None = None
    """`chosen`: rows are preference pairs, of which the chosen answer is learned."""
    max_bad: float = Field(default=0.01, ge=0, lt=1)
    """The share of rows that may be unreadable; ten always may."""
    licence: str | None = None
    """The licence of a file; of a dataset that ILA knows it is known. Shown on ranking cards."""
    stands_for: str | None = None
    """A dataset of the paper, in whose place it is shown beside the paper's numbers."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, given: Any) -> Any:
        fields = {"source": given} if isinstance(given, str) else given
        if isinstance(fields, dict) and "name" not in fields and "source" in fields:
            last = _ENDING.sub("", str(fields["source"]).rstrip("/").rpartition("/")[2])
            return {**fields, "name": re.sub(r"[^\w.-]+", "-", last).strip("-.") or "data"}
        return fields

    @model_validator(mode="after")
    def _whole_columns(self) -> Self:
        if self.columns and "messages" not in self.columns:
            missing = [what for what in ("user", "assistant") if what not in self.columns]
            if missing:
                raise ValueError(
                    f"columns: {' and '.join(missing)} not given; give `messages`, or `user` and "
                    "`assistant`, each with the name of a field"
                )
        return self


class DataConfig(Frozen):
    """How conversations become token rows and splits."""

    max_length: int = Field(ge=8)
    """Tokens per conversation; longer ones are cut at the end."""
    held_out_fraction: float = Field(gt=0, lt=1)
    gate_fraction: float = Field(ge=0, lt=1)
    """Rows kept from stage 1 for the gates; 0 when the gates use the training rows."""
    split_seed: int = 0
