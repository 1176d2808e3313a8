"""What arms are measured by, and how two of them are compared."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from ila_core.config.base import Frozen, Seed, refuse_repeats

PathText = Annotated[str, AfterValidator(lambda given: str(Path(given).expanduser()))]
"""The path of a local file or folder; `~` is the user's home."""


class MmluSettings(Frozen):
    """MMLU by lm-eval's definition."""

    path: PathText | None = None
    """Folder with `dev/` and `test/` CSV files; `null` reads cais/mmlu from the hub."""
    revision: str | None = None
    """Hub commit; `null` is resolved and locked by the first online run."""
    shots: int = Field(default=5, ge=0)


class HellaSwagSettings(Frozen):
    """HellaSwag by lm-eval's definition."""

    path: PathText | None = None
    """Validation rows as JSON Lines; `null` reads Rowan/hellaswag from the hub."""
    revision: str | None = None
    shots: int = Field(default=0, ge=0)


class QuestionsSettings(Frozen):
    """A question set in FastChat's format."""

    questions: PathText
    """`question.jsonl`."""
    references: PathText | None = None
    """`reference_answer/gpt-4.jsonl`, for questions that have a right answer."""


class GenerationSettings(Frozen):
    """How a model answers."""

    max_new_tokens: int = Field(default=1024, ge=1)
    """Most tokens of one turn; FastChat's."""
    temperature: Literal["greedy", "by_category"] = "by_category"
    """`by_category`: FastChat's table, from the whole vocabulary (no top-k, no top-p)."""
    seed: Seed = 0
    """The seed of sampled answers."""


class OpenAiJudgeSettings(Frozen):
    """A judge at an endpoint that OPENAI_BASE_URL and OPENAI_API_KEY say: what decides a grade."""

    kind: Literal["openai"] = "openai"
    model: str = Field(min_length=1)
    """The model's name at the endpoint."""
    prompts: PathText | None = None
    """FastChat's `judge_prompts.jsonl`; `null` uses our own wording."""
    max_tokens: int = Field(default=2048, ge=1)
    """Most tokens of a reply; FastChat's."""
    temperature: float = Field(default=0.0, ge=0)
    repeats: int = Field(default=3, ge=1)
    """Verdicts on each answer; servers differ from reply to reply even at temperature 0."""
    attempts: int = Field(default=3, ge=1)
    """Before a refusal, or a reply without a grade, is taken for the judge's last word."""
    local: bool = False
    """A model of one's own behind a server: marked, and never in the paper's column."""


class LocalJudgeSettings(Frozen):
    """A causal model of this machine that grades by likelihood, with a short prompt of our own."""

    kind: Literal["local"]
    model: str = Field(min_length=1)
    """A model profile."""


JudgeSettings = Annotated[OpenAiJudgeSettings | LocalJudgeSettings, Field(discriminator="kind")]


class GeneralTextSettings(Frozen):
    """Text unlike the fine-tuning data, on which forgetting is seen."""

    path: PathText | None = None
    """JSON Lines with `text`, or paragraphs; `null` samples texts from the base, once."""
    texts: int = Field(default=64, ge=1)
    """To sample."""
    tokens: int = Field(default=128, ge=2)
    """Most tokens of each text."""
    seed: Seed = 0


class AdapterSettings(Frozen):
    """A PEFT folder that was trained elsewhere."""

    path: PathText
    method: Literal["lora", "qlora", "adalora"] | None = None
    """`null`: what PEFT's configuration says, on the base in its own precision; `qlora`: on the
    base in 4 bits."""


class EvaluateConfig(Frozen):
    benchmarks: tuple[str, ...] = Field(min_length=1)
    """Entries of `ila_core.evaluate.benchmarks.BENCHMARKS`."""
    against: str
    """The arm every other arm is compared with."""
    resamples: int = Field(ge=100)
    """Paired bootstrap resamples over items."""
    confidence: float = Field(gt=0, lt=1)
    seed: Seed = 0
    limit: int | None = Field(default=None, ge=1)
    """Questions per task, for a look; never taken for a full evaluation."""
    adapters: dict[str, AdapterSettings] = {}  # noqa: RUF012  # pydantic copies it
    """Trained elsewhere, by the name they are shown under, evaluated like arms."""
    answers: dict[str, PathText] = {}  # noqa: RUF012
    """Other models' answer files (FastChat's schema), by the name they are shown under, which the
    judge grades beside ours."""
    mmlu: MmluSettings = MmluSettings()
    hellaswag: HellaSwagSettings = HellaSwagSettings()
    vicuna: QuestionsSettings | None = None
    mt_bench: QuestionsSettings | None = None
    generation: GenerationSettings = GenerationSettings()
    judge: JudgeSettings | None = None
    general_text: GeneralTextSettings = GeneralTextSettings()

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        refuse_repeats("benchmarks", self.benchmarks)
        return self
