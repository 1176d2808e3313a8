"""The kinds of step, one file each: `describe` it (no heavy import) and `compute` it.

To add one: a file with `VERSION`, a describing function and `compute`, and a line in `STEPS`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tasks.step import Context, Step
from tasks.steps import (
    adopted,
    adopting,
    agreement,
    answering,
    controlling,
    evaluation,
    finetuning,
    given_answers,
    masking,
    page,
    pairing,
    preparation,
    ranking,
    sampling,
    scoring,
    selection,
    stage_one,
    stage_two,
)
from tasks.steps.adopted import adopt_ranking
from tasks.steps.adopting import adopt
from tasks.steps.agreement import agree
from tasks.steps.base import Base
from tasks.steps.controlling import control
from tasks.steps.evaluation import evaluate
from tasks.steps.finetuning import finetune
from tasks.steps.masking import mask
from tasks.steps.page import report
from tasks.steps.pairing import pair
from tasks.steps.preparation import prepare
from tasks.steps.ranking import rank
from tasks.steps.scoring import score
from tasks.steps.selection import select
from tasks.steps.stage_one import stage1

__all__ = [
    "STEPS",
    "Base",
    "adopt",
    "adopt_ranking",
    "agree",
    "control",
    "evaluate",
    "finetune",
    "mask",
    "pair",
    "prepare",
    "rank",
    "report",
    "score",
    "select",
    "stage1",
]

Compute = Callable[[Step, dict[str, Path], Path, Context], None]

STEPS: dict[str, Compute] = {
    "prepare": preparation.compute,
    "stage1": stage_one.compute,
    "stage2": stage_two.compute,
    "score": scoring.compute,
    "mask": masking.compute,
    "control": controlling.compute,
    "ranking": ranking.compute,
    "adopted": adopted.compute,
    "agreement": agreement.compute,
    "selection": selection.compute,
    "finetune": finetuning.compute,
    "adapter": adopting.compute,
    "answers": answering.compute,
    "given-answers": given_answers.compute,
    "texts": sampling.compute,
    "evaluation": evaluation.compute,
    "pairwise": pairing.compute,
    "report": page.compute,
}
"""Step name to its computation: (step, input payload folders, output folder, context)."""
