"""The base model that stays in memory: consecutive evaluations in one process share it.

An adapter is attached and detached, which restores every weight. Weights of a full fine-tuning
replace the base's, so after these, or after an error, the next evaluation loads the base again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ila_core.train.methods import METHODS
from tasks.cache.step import Context, Step
from tasks.steps.base import Base, resident


@contextmanager
def evaluated(
    base: Base, tuned: Step | None, payload: Path | None, context: Context
) -> Iterator[Any]:
    """Yield the base model, or the model that the step `tuned` trained from it."""
    method = None if tuned is None else METHODS[tuned.given["method"]]
    four_bit = method is not None and method.four_bit
    key = (
        str(base.files),
        base.config.dtype,
        base.config.lm_head,
        context.runtime.device,
        four_bit,
    )
    # Its weights are those of the key whatever becomes of the files; the tokenizer, which each
    # evaluation reads, would not be.
    base.require_unchanged()
    model = resident.pop(key, None) or base.load(context.runtime, four_bit=four_bit)
    if method is None or payload is None:
        yield model
    else:
        tuned_model = method.load(model, payload / method.folder)
        yield tuned_model
        method.detach(tuned_model)
    if tuned is None or tuned.given["method"] != "full":
        resident[key] = model
