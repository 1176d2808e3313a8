"""Fine-tune the selected layers with all others frozen, and check that they stayed frozen."""

import json
from dataclasses import replace
from pathlib import Path

from ila_core.config import FinetuneConfig, MethodSettings
from ila_core.data.batches import planned_steps
from ila_core.data.prepared import Prepared
from ila_core.models.loading import load_tokenizer, save_tokenizer
from ila_core.train.experts import check_experts
from ila_core.train.methods import METHODS
from tasks.cache.payloads import write_result
from tasks.cache.step import Context, Step
from tasks.steps.base import Base
from tasks.steps.finetune.selection import load as load_selection


def finetune(base: Base, selection: Step, data: Step, settings: FinetuneConfig, seed: int) -> Step:
    """Describe the fine-tuning of one arm with one seed."""
    arm = selection.given["arm"]
    method, how = settings.method_of(arm), settings.settings_of(arm)
    for field in ("r", "initial_r"):
        base.check_rank(f"finetune.{method}.{field}", getattr(how, field, 1))
    check_experts(base.layers, method, how, f"finetune.{method}")
    if how.steps is not None:  # else only the prepared data tell
        METHODS[method].check(how, how.steps)
    return Step(
        "finetune",
        label=f"finetune {arm.name} seed {seed}",
        version=METHODS[method].version,
        identity=base.identify_training(
            method=method,
            settings=how.model_dump(),
            optimizer=settings.optimizer,
            watch=settings.watch,
            seed=seed,
        ),
        inputs={"selection": selection, "data": data},
        given={
            "base": base,
            "method": method,
            "settings": settings,
            "how": how,
            "seed": seed,
            "names": {"arm": arm.name, "policy": arm.policy, "seed": seed},
        },
    )


def compute(step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
    from ila_core.selection.finetune import finetune as train_arm
    from ila_core.selection.held_out_watch import HeldOutWatch

    given = step.given
    base: Base = given["base"]
    settings: FinetuneConfig = given["settings"]
    how: MethodSettings = given["how"]
    method = METHODS[given["method"]]
    splits = Prepared.load(inputs["data"]).splits
    planned = planned_steps(how, len(splits["train"]), settings.optimizer.batch_size)
    method.check(how, planned)
    result = train_arm(
        base.load(context.runtime, four_bit=method.four_bit),
        load_selection(inputs["selection"]),
        splits["train"],
        given["method"],
        how,
        settings.optimizer,
        seed=given["seed"],
        folder=out,
        watch=HeldOutWatch(
            splits["held_out"],
            settings.watch,
            planned=planned,
            eval_batch=context.runtime.eval_batch,
        ),
        base_name=base.address,
        runtime=replace(context.training(step.label), count_allocations=True),
    )
    if (out / "adapter").is_dir():
        _complete(out / "adapter", base)
    write_result(out / "finetune.json", result, context)


def _complete(adapter: Path, base: Base) -> None:
    """Name the base's commit in a trained adapter, and lay tokenizer and chat template beside it.

    PEFT reads the commit too, and from the folder alone the model can be asked as it was trained.
    """
    from peft.utils import CONFIG_NAME

    config = json.loads((adapter / CONFIG_NAME).read_bytes())
    config["revision"] = base.pinned.revision
    (adapter / CONFIG_NAME).write_text(
        json.dumps(config, indent=2, sort_keys=True), encoding="utf-8"
    )
    told = base.config.template, base.config.template_variables
    save_tokenizer(load_tokenizer(base.pinned), *told, adapter)
