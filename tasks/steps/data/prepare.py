"""Prepare one dataset: conversations become token rows with loss masks, in splits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ila_core.config import DataConfig, DatasetConfig
from ila_core.config.derived import longest_row, preparation
from ila_core.data import Dataset
from ila_core.data.sources import licence
from ila_core.errors import CheckError
from ila_core.models.loading import load_tokenizer
from ila_core.resolve import Lock, Unknown
from tasks.cache.step import Context, Step
from tasks.steps.base import Base

if TYPE_CHECKING:
    from ila_core.data.prepared import Prepared

VERSION = 2


def prepare(base: Base, dataset: DatasetConfig, data: DataConfig, lock: Lock) -> Step:
    """Describe the preparation of `dataset` with this model's tokenizer and chat template."""
    count, positions = lock.conversations(dataset), lock.positions(base.config)
    settings = count if isinstance(count, Unknown) else preparation(data, count, positions)
    lock.check_length(base.config, longest_row(data, positions))
    return Step(
        "prepare",
        label=f"prepare {dataset.name}",
        version=VERSION,
        identity=base.identify(
            "template",
            "template_variables",
            "pad_token",
            content=lock.dataset(dataset),
            data=settings,
        ),
        given={
            "base": base,
            "dataset": dataset,
            "data": settings,
            "lock": lock,
            "names": {"dataset": dataset.name, "licence": licence(dataset)},
        },
    )


def compute(step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
    prepared = _prepared(step, progress=context.runtime.progress)
    prepared.save(out)
    step.given["lock"].keep_rows(step.key, prepared.statistics)


def statistics(step: Step) -> dict[str, Any]:
    """What became of the rows, before the step has run: for a plan.

    Raises:
        UserError: all that the step itself would refuse.
    """
    lock: Lock = step.given["lock"]
    found = lock.rows(str(step.key))
    if found is None:
        found = _prepared(step, progress=True).statistics
        lock.keep_rows(str(step.key), found)
    return found


def _prepared(step: Step, *, progress: bool) -> Prepared:
    from ila_core.data.chat_template import Renderer
    from ila_core.data.tokenize import prepare as prepare_rows

    given = step.given
    base, dataset = given["base"], given["dataset"]
    rows = Dataset(dataset, given["lock"].dataset_revision(dataset))
    renderer = Renderer(
        load_tokenizer(base.pinned), base.config.template, base.config.template_variables
    )
    prepared = prepare_rows(rows, renderer, given["data"], dataset=dataset.name, progress=progress)
    assert not isinstance(step.identity, Unknown)
    if rows.digest() != step.identity["content"]:
        raise CheckError(
            f"dataset {dataset.name} changed while the run was starting; run the same command again"
        )
    return prepared
