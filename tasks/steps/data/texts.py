"""Sample texts from the base model, once for all models that are compared on them."""

from pathlib import Path

from ila_core.config import GeneralTextSettings
from ila_core.evaluate.texts import sample_texts
from ila_core.models.loading import load_tokenizer
from tasks.cache.payloads import read_json, write_json
from tasks.cache.step import Context, Step
from tasks.steps.base import Base
from tasks.steps.resident import evaluated

VERSION = 1


def sample(base: Base, settings: GeneralTextSettings) -> Step:
    """Describe the sampling of texts from the base model."""
    return Step(
        "texts",
        label="texts of the base",
        version=VERSION,
        identity=base.identify_training(settings=settings),
        given={"base": base, "settings": settings},
    )


def compute(step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
    base: Base = step.given["base"]
    settings: GeneralTextSettings = step.given["settings"]
    with evaluated(base, None, None, context) as model:
        rows = sample_texts(
            model,
            load_tokenizer(base.pinned),
            texts=settings.texts,
            tokens=settings.tokens,
            seed=settings.seed,
        )
    write_json(out / "texts.json", rows)


def load(payload: Path) -> list[list[int]]:
    """Read the token ids of each text."""
    rows: list[list[int]] = read_json(payload / "texts.json")
    return rows
