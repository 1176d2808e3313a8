"""The base model, the datasets, and how conversations become token rows."""

import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ila_core.config.base import Frozen, Relation, default, named

PLAIN = Path(__file__).parents[1] / "data" / "plain.jinja"
"""The chat template of a base model that has none. Our wording; the paper does not give its own."""

_ENDING = re.compile(r"(\.(jsonl|ndjson|json|parquet|arrow|csv|tsv))?(\.(gz|zst))?$")


class ModelConfig(Frozen):
    """One base model. `org/name` or `./folder` stands for `{source: ...}`."""

    name: str = named("the source's last part")
    """What the model is called."""
    source: str
    """A hub id (`mistralai/Mistral-7B-v0.1`) or a folder; what exists as a folder is one."""
    revision: str | None = default(None, "ours: that of the first run, which is locked")
    """Hub commit."""
    architecture: dict[str, Any] = default({}, "the model's config.json")
    """Fields of its config.json, `model_type` among them: for planning without a network, and
    compared with the model's own when it is loaded."""
    dtype: Literal["auto", "float32", "bfloat16"] = default(
        "auto", "the model's config.json; bfloat16 where that says float16"
    )
    """What the weights are loaded as."""
    template: str | None = default(None, "the tokenizer's own; `plain` where it has none")
    """Jinja chat template, the path of a `.jinja` file, or `plain`: ILA's own for base models."""
    template_variables: dict[str, str | bool | int] = default({}, "ours: none")
    """What the chat template is told besides: a date, or a switch such as `enable_thinking`."""
    pad_token: str | None = default(None, "the tokenizer's own")
    """None is needed: where batches are padded, any will do."""
    lm_head: Literal["auto", "adapt", "untie", "exclude"] = default(
        "auto", "ours: `untie` where the head is the embedding, else `adapt`"
    )
    """`adapt`: a layer like the others; `untie`: cloned from the embedding; `exclude`: no layer."""
    exclude: tuple[str, ...] = default((), "ours: none")
    """Layers that are left out: full names of modules, all below included, or regular expressions
    that match layers' full names whole. One that matches nothing is an error."""
    allow_uncovered: bool = default(False, "ours: refused")
    """Go on where more than 5 % of the matrix weights lie outside of the layers; the log then says
    what does."""
    notes: str = default("", "ours: none")
    """For people."""
    related: dict[str, Relation] = default({}, "ours: none")
    """Base models whose rankings may serve this one though its weights are others, and how this
    one stems from each: `{mistral-7b: instruct}`. Hashed by a selection that reads such a one."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, given: Any) -> Any:
        fields = {"source": given} if isinstance(given, str) else given
        return named_by_source(fields, fallback="model")

    @field_validator("template")
    @classmethod
    def _template_text(cls, given: str | None) -> str | None:
        return None if given is None else template_text(given)

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
        return self.source.startswith((".", "/", "~")) or Path(self.source).is_dir()


class DatasetConfig(Frozen):
    """One alignment dataset. `lima` or `data/mine.jsonl` stands for `{source: ...}`.

    Nothing of it is hashed: the conversations are that it leads to.
    """

    name: str = named("the source's last part, without its ending")
    """What the dataset is called."""
    source: str
    """A name that ILA knows (`lima`), a hub id (`org/name`), a file, a folder or a pattern."""
    config: str | None = default(None, "the only one, or `default`")
    """The configuration of a hub dataset that has several."""
    split: str = default("train", "ours")
    """Which split of a hub dataset or a folder is read."""
    revision: str | None = default(None, "ours: that of the first run, which is locked")
    """Hub commit."""
    held_out: str | None = default(None, "ours: a share of the rows, `data.held_out_fraction`")
    """Other conversations that are held out, in short as the dataset itself: a file, or
    `ID:CONFIG:SPLIT` (`org/name::validation`). A prompt of theirs is not trained on."""
    columns: dict[Literal["user", "assistant", "system", "messages"], str] = default(
        {}, "found by name: docs/DATA.md"
    )
    """Which field holds what, where its name does not say: `{user: question, assistant: best}`."""
    answer: Literal["chosen"] | None = default(None, "ours: pairs are refused")
    """`chosen`: rows are preference pairs, of which the chosen answer is learned."""
    max_bad: float = default(0.01, "ours", ge=0, lt=1)
    """The share of rows that may be unreadable; ten always may."""
    licence: str | None = default(None, "that of a dataset that ILA knows")
    """The licence of a file; of a dataset that ILA knows it is known. Shown on ranking cards."""
    stands_for: str | None = default(None, "ours: none")
    """A dataset of the paper, in whose place it is shown beside the paper's numbers."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, given: Any) -> Any:
        fields = _id_config_split(given) if isinstance(given, str) else given
        return named_by_source(fields, fallback="data")

    @property
    def validation(self) -> Self | None:
        """The dataset of the conversations that are held out, where they are others."""
        if self.held_out is None:
            return None
        fields = {"config": None, "split": "train", "revision": None, "held_out": None}
        fields |= _id_config_split(self.held_out)
        if fields["source"] == self.source:
            fields["revision"] = self.revision
        return self.model_copy(update=fields)

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

    max_length: int | None = default(
        None, "ours: the model's positions, at most 4,096; shorter rows are not padded", ge=8
    )
    """Tokens per conversation; longer ones are cut at the end."""
    held_out_fraction: float | None = default(
        None, "ours: 64 conversations, but 2 % at least and 20 % at most", gt=0, lt=1
    )
    """Share of each dataset's conversations that nothing is trained on."""
    gate_fraction: float = default(
        0.0, "paper, section 2: the gates use the training rows", ge=0, lt=1
    )
    """Share kept from stage 1 for the gates; 0 when the gates use the training rows."""
    split_seed: int = default(0, "ours")
    """Another seed splits otherwise; a prompt stands in one split only."""


class Preparation(Frozen):
    """How one dataset is prepared: `DataConfig` with nothing left open."""

    max_length: int = Field(ge=8)
    held_out_fraction: float = Field(ge=0, lt=1)
    """0 where other conversations are held out."""
    gate_fraction: float = Field(ge=0, lt=1)
    split_seed: int


def named_by_source(fields: Any, fallback: str) -> Any:
    """Give a mapping without a name that of its source's last part."""
    if not isinstance(fields, dict) or "name" in fields or "source" not in fields:
        return fields
    last = _ENDING.sub("", str(fields["source"]).rstrip("/").rpartition("/")[2])
    return {**fields, "name": re.sub(r"[^\w.-]+", "-", last).strip("-._") or fallback}


def template_text(given: str) -> str:
    """The text of a chat template: itself, that of a `.jinja` file, or ILA's own, `plain`.

    Raises:
        ValueError: a file that cannot be read, or a text without a variable.
    """
    if "{" in given:
        return given
    path = PLAIN if given == "plain" else Path(given).expanduser()
    if path.suffix != ".jinja":
        raise ValueError(
            f"{given!r} is no chat template: give its text, the path of a .jinja file, or `plain`"
        )
    try:
        return path.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from error


def _id_config_split(given: str) -> dict[str, Any]:
    """`org/name:config:split` as fields, each but the first optional; a path may have colons."""
    source, *more = [given] if Path(given).expanduser().exists() else given.split(":")
    fields = zip(("config", "split"), more, strict=False)
    return {"source": source} | {field: part for field, part in fields if part}
