"""What arms are measured by, and how two of them are compared."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ila_core.config.common import Frozen


class MmluSettings(Frozen):
    """MMLU by lm-eval's definition."""

    path: str | None = None
    """Folder with `dev/` and `test/` CSV files; `null` reads cais/mmlu from the hub."""
    revision: str | None = None
    """Hub commit; `null` is resolved and locked by the first online run."""
    shots: int = Field(default=5, ge=0)


class HellaSwagSettings(Frozen):
    """HellaSwag by lm-eval's definition."""

    path: str | None = None
    """Validation rows as JSON Lines; `null` reads Rowan/hellaswag from the hub."""
    revision: str | None = None
    shots: int = Field(default=0, ge=0)


class QuestionsSettings(Frozen):
    """A question set in FastChat's format."""

    questions: str
    """`question.jsonl`."""
    references: str | None = None
    """`reference_answer/gpt-4.jsonl`, for questions that have a right answer."""


class GenerationSettings(Frozen):
    """How a model answers."""

    max_new_tokens: int = Field(default=1024, ge=1)
    """Of one turn; FastChat's."""
    temperature: Literal["greedy", "by_category"] = "by_category"
    """`by_category`: FastChat's table, from the whole vocabulary (no top-k, no top-p)."""
    seed: int = Field(default=0, ge=0)
    """Of sampled answers."""


class JudgeSettings(Frozen):
    """Who grades answers, which is part of a grade's identity."""

    kind: Literal["openai", "local"]
    """`openai`: any endpoint of that protocol, which OPENAI_BASE_URL and OPENAI_API_KEY say;
    `local`: a causal model here, by the likelihood of each grade. Never in the paper's column."""
    model: str
    """As the endpoint calls it; or a model profile."""
    prompts: str | None = None
    """FastChat's `judge_prompts.jsonl`; `null` uses our own wording."""
    repeats: int = Field(default=3, ge=1)
    """Grades per answer, of which the median counts. A local judge always says the same."""
    attempts: int = Field(default=3, ge=1)
    """Questions at most until a reply holds a grade."""
    max_tokens: int = Field(default=2048, ge=1)
    temperature: float = Field(default=0.0, ge=0)


class GeneralTextSettings(Frozen):
    """Text unlike the fine-tuning data, on which forgetting is seen."""

    path: str | None = None
    """JSON Lines with `text`, or paragraphs; `null` samples texts from the base, once."""
    texts: int = Field(default=64, ge=1)
    """To sample."""
    tokens: int = Field(default=128, ge=2)
    """Of each, at most."""
    seed: int = Field(default=0, ge=0)


class EvaluateConfig(Frozen):
    benchmarks: tuple[str, ...] = Field(min_length=1)
    """Entries of `ila_core.benchmarks.BENCHMARKS`."""
    against: str
    """The arm every other arm is compared with."""
    resamples: int = Field(ge=100)
    """Paired bootstrap resamples over items."""
    confidence: float = Field(gt=0, lt=1)
    seed: int = 0
    limit: int | None = Field(default=None, ge=1)
    """Questions per task, for a look; never taken for a full evaluation."""
    adapters: dict[str, str] = {}  # noqa: RUF012  # pydantic copies it
    """PEFT folders trained elsewhere, by the name they are shown under, evaluated like arms."""
    mmlu: MmluSettings = MmluSettings()
    hellaswag: HellaSwagSettings = HellaSwagSettings()
    vicuna: QuestionsSettings | None = None
    mt_bench: QuestionsSettings | None = None
    generation: GenerationSettings = GenerationSettings()
    judge: JudgeSettings | None = None
    general_text: GeneralTextSettings = GeneralTextSettings()
