"""What arms are measured by, and how two of them are compared."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from ila_core.config.base import Frozen, Seed, default, refuse_repeats

PathText = Annotated[str, AfterValidator(lambda given: str(Path(given).expanduser()))]
"""The path of a local file or folder; `~` is the user's home."""


class MmluSettings(Frozen):
    """MMLU by lm-eval's definition."""

    path: PathText | None = default(None, "cais/mmlu of the hub")
    """Folder with `dev/` and `test/` CSV files."""
    revision: str | None = default(None, "ours: that of the first run, which is locked")
    """Hub commit."""
    shots: int = default(5, "paper, section 3", ge=0)
    """Solved examples in front of each question."""


class HellaSwagSettings(Frozen):
    """HellaSwag by lm-eval's definition."""

    path: PathText | None = default(None, "Rowan/hellaswag of the hub")
    """Validation rows as JSON Lines."""
    revision: str | None = default(None, "ours: that of the first run, which is locked")
    """Hub commit."""
    shots: int = default(0, "paper, section 3", ge=0)
    """Solved examples in front of each question."""


class QuestionsSettings(Frozen):
    """A question set in FastChat's format."""

    questions: PathText
    """`question.jsonl`."""
    references: PathText | None = default(None, "ours: none")
    """`reference_answer/gpt-4.jsonl`, for questions that have a right answer."""


class GenerationSettings(Frozen):
    """How a model answers."""

    max_new_tokens: int = default(1024, "FastChat", ge=1)
    """Most tokens of one turn."""
    temperature: Literal["greedy", "by_category"] = default("by_category", "FastChat")
    """`by_category`: FastChat's table, from the whole vocabulary (no top-k, no top-p)."""
    seed: Seed = default(0, "ours")
    """The seed of sampled answers."""


class OpenAiJudgeSettings(Frozen):
    """A judge at an endpoint that OPENAI_BASE_URL and OPENAI_API_KEY say: what decides a grade."""

    kind: Literal["openai"] = default("openai", "ours")
    """Which kind of judge."""
    model: str = Field(min_length=1)
    """The model's name at the endpoint."""
    prompts: PathText | None = default(None, "ours: our own wording")
    """FastChat's `judge_prompts.jsonl`."""
    max_tokens: int = default(2048, "FastChat", ge=1)
    """Most tokens of a reply."""
    temperature: float = default(0.0, "FastChat", ge=0)
    """The judge's temperature."""
    repeats: int = default(3, "ours", ge=1)
    """Verdicts on each answer; servers differ from reply to reply even at temperature 0."""
    attempts: int = default(3, "ours", ge=1)
    """Before a refusal, or a reply without a grade, is taken for the judge's last word."""
    local: bool = default(False, "ours")
    """A model of one's own behind a server: marked, and never in the paper's column."""


class LocalJudgeSettings(Frozen):
    """A causal model of this machine that grades by likelihood, with a short prompt of our own."""

    kind: Literal["local"]
    """Which kind of judge."""
    model: str = Field(min_length=1)
    """A name that ILA knows, a hub id or a folder."""


JudgeSettings = Annotated[OpenAiJudgeSettings | LocalJudgeSettings, Field(discriminator="kind")]


class GeneralTextSettings(Frozen):
    """Text unlike the fine-tuning data, on which forgetting is seen."""

    path: PathText | None = default(None, "ours: sampled from the base, once")
    """JSON Lines with `text`, or paragraphs."""
    texts: int = default(64, "ours", ge=1)
    """Texts to sample."""
    tokens: int = default(128, "ours", ge=2)
    """Most tokens of each text."""
    seed: Seed = default(0, "ours")
    """The seed of sampled texts."""


class AdapterSettings(Frozen):
    """A PEFT folder that was trained elsewhere."""

    path: PathText
    """PEFT's folder."""
    method: Literal["lora", "qlora", "adalora"] | None = default(
        None, "PEFT's configuration, on the base in its own precision"
    )
    """How it was trained; `qlora`: on the base in 4 bits."""


class EvaluateConfig(Frozen):
    """What arms are measured by, and how two are compared."""

    benchmarks: tuple[str, ...] = default(("held_out_loss",), "ours: needs no file", min_length=1)
    """Entries of `ila_core.evaluate.benchmarks.BENCHMARKS`."""
    against: str = default("", "ours: the first one")
    """The arm every other arm is compared with."""
    resamples: int = default(10_000, "ours", ge=100)
    """Paired bootstrap resamples over items."""
    confidence: float = default(0.95, "ours", gt=0, lt=1)
    """The confidence of every interval."""
    seed: Seed = default(0, "ours")
    """The seed of the resamples."""
    limit: int | None = default(None, "ours: none", ge=1)
    """Questions per task, for a look; never taken for a full evaluation."""
    adapters: dict[str, AdapterSettings] = default({}, "ours: none")
    """Trained elsewhere, by the name they are shown under, evaluated like arms."""
    answers: dict[str, PathText] = default({}, "ours: none")
    """Other models' answer files (FastChat's schema), by the name they are shown under, which the
    judge grades beside ours."""
    mmlu: MmluSettings = MmluSettings()
    hellaswag: HellaSwagSettings = HellaSwagSettings()
    vicuna: QuestionsSettings | None = default(None, "ours: not given")
    """The 80 questions of Vicuna."""
    mt_bench: QuestionsSettings | None = default(None, "ours: not given")
    """The 80 questions of MT-Bench, of two turns each."""
    generation: GenerationSettings = GenerationSettings()
    judge: JudgeSettings | None = default(None, "ours: nothing is judged")
    """Who grades answers."""
    general_text: GeneralTextSettings = GeneralTextSettings()

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        refuse_repeats("benchmarks", self.benchmarks)
        return self
