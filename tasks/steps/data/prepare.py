"""Prepare one dataset: conversations become token rows with loss masks, in splits."""

from pathlib import Path

from ila_core.config import DataConfig, DatasetConfig
from ila_core.data import content_digest, licence, load_dataset
from ila_core.errors import CheckError
from ila_core.models.loading import load_tokenizer
from ila_core.resolve import Lock, Unknown
from tasks.cache.step import Context, Step
from tasks.steps.base import Base

VERSION = 1


def prepare(base: Base, dataset: DatasetConfig, data: DataConfig, lock: Lock) -> Step:
    """Describe the preparation of `dataset` with this model's tokenizer and chat template."""
    lock.check_length(base.config, data.max_length)
    return Step(
        "prepare",
        label=f"prepare {dataset.name}",
        version=VERSION,
        identity=base.identify("template", "pad_token", content=lock.dataset(dataset), data=data),
        given={
            "base": base,
            "dataset": dataset,
            "data": data,
            "lock": lock,
            "names": {"dataset": dataset.name, "licence": licence(dataset)},
        },
    )


def compute(step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
    from ila_core.data.tokenize import prepare as prepare_rows

    given = step.given
    base, dataset = given["base"], given["dataset"]
    conversations = load_dataset(dataset, given["lock"].dataset_revision(dataset))
    assert not isinstance(step.identity, Unknown)
    if content_digest(conversations) != step.identity["content"]:
        raise CheckError(
            f"dataset {dataset.name} changed while the run was starting; run the same command again"
        )
    tokenizer = load_tokenizer(base.pinned)
    rows = prepare_rows(
        conversations,
        tokenizer,
        base.config.template,
        given["data"],
        dataset=dataset.name,
        progress=context.runtime.progress,
    )
    rows.save(out)
