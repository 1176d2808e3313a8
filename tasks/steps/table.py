"""The table of all kinds of step.

A kind of step is a file with `VERSION`, a function that describes the step without heavy imports,
and `compute`, plus a line in `STEPS`.
"""

from collections.abc import Callable
from pathlib import Path

from tasks.cache.step import Context, Step
from tasks.steps.data import prepare, texts
from tasks.steps.evaluate import answers, evaluation, given_answers, pairwise, report
from tasks.steps.finetune import adapter, finetune, selection
from tasks.steps.search import (
    adopted,
    agreement,
    control,
    mask,
    ranking,
    score,
    stage1,
    stage2,
)

Compute = Callable[[Step, dict[str, Path], Path, Context], None]

STEPS: dict[str, Compute] = {
    "prepare": prepare.compute,
    "stage1": stage1.compute,
    "stage2": stage2.compute,
    "score": score.compute,
    "mask": mask.compute,
    "control": control.compute,
    "ranking": ranking.compute,
    "adopted": adopted.compute,
    "agreement": agreement.compute,
    "selection": selection.compute,
    "finetune": finetune.compute,
    "adapter": adapter.compute,
    "answers": answers.compute,
    "given-answers": given_answers.compute,
    "texts": texts.compute,
    "evaluation": evaluation.compute,
    "pairwise": pairwise.compute,
    "report": report.compute,
}
"""Step name to its `compute(step, inputs, out, context)`; `inputs` are payload folders."""
