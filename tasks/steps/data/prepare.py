"""Prepare a dataset, or several as one: conversations become token rows with loss masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ila_core.config import DataConfig, DatasetConfig, Preparation
from ila_core.config.derived import longest_row, preparation
from ila_core.data import Dataset, Mixture
from ila_core.data.sources import licence
from ila_core.errors import CheckError, UserError, listed
from ila_core.models.loading import load_tokenizer
from ila_core.resolve import Lock, Unknown
from tasks.cache.step import Context, Step
from tasks.steps.base import Base

if TYPE_CHECKING:
    from ila_core.data.prepared import Prepared

VERSION = 2


def prepare(base: Base, mixed: Sequence[DatasetConfig], data: DataConfig, lock: Lock) -> Step:
    """Describe the preparation of a dataset, or of several as one, with this model's tokenizer.

    Raises:
        UserError: rows that would be longer than the model reads, or a mixture of which only some
            bring the conversations that are held out.
    """
    name = "+".join(dataset.name for dataset in mixed)
    validation = [held for dataset in mixed if (held := dataset.validation) is not None]
    if validation and len(validation) < len(mixed):
        raise UserError(
            f"{name}: only {listed([d.name for d in mixed if d.held_out])} of these datasets gives "
            "the conversations that are held out (`held_out:`); give them for each, or for none"
        )
    positions = lock.positions(base.config)
    lock.check_length(base.config, longest_row(data, positions))
    counts = [lock.conversations(dataset) for dataset in mixed]
    known = [count for count in counts if not isinstance(count, Unknown)]
    settings: Preparation | Unknown = next(
        (count for count in counts if isinstance(count, Unknown)),
        preparation(data, sum(known) or 1, positions, validation=bool(validation)),
    )
    content = {"content": _one_or_all([lock.dataset(dataset) for dataset in mixed])}
    if validation:
        content["held_out"] = _one_or_all([lock.dataset(dataset) for dataset in validation])
    return Step(
        "prepare",
        label=f"prepare {name}",
        version=VERSION,
        identity=base.identify(
            "template", "template_variables", "pad_token", **content, data=settings
        ),
        given={
            "base": base,
            "mixed": mixed,
            "validation": validation,
            "data": settings,
            "lock": lock,
            "names": {
                "dataset": name,
                "licence": "; ".join(dict.fromkeys(licence(dataset) for dataset in mixed)),
            },
        },
    )


def _one_or_all(digests: Sequence[str | Unknown]) -> object:
    """The digest of one dataset, or those of several; the first that is unknown."""
    unknown = [digest for digest in digests if isinstance(digest, Unknown)]
    if unknown:
        return unknown[0]
    return list(digests) if len(digests) > 1 else digests[0]


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

    given, lock = step.given, step.given["lock"]
    base: Base = given["base"]

    def mixture(datasets: Sequence[DatasetConfig]) -> Mixture:
        return Mixture([Dataset(dataset, lock.dataset_revision(dataset)) for dataset in datasets])

    rows, validation = mixture(given["mixed"]), mixture(given["validation"])
    renderer = Renderer(
        load_tokenizer(base.pinned), base.config.template, base.config.template_variables
    )
    name = given["names"]["dataset"]
    prepared = prepare_rows(
        rows,
        renderer,
        given["data"],
        dataset=name,
        validation=validation if given["validation"] else None,
        progress=progress,
    )
    read = {"content": _one_or_all(rows.digests())}
    if given["validation"]:
        read["held_out"] = _one_or_all(validation.digests())
    assert not isinstance(step.identity, Unknown)
    if read != {part: step.identity[part] for part in read}:
        raise CheckError(
            f"dataset {name} changed while the run was starting; run the same command again"
        )
    return prepared
