"""Stage 1: LoRA on every layer until the loss is epsilon-stable (Definition 1)."""

from collections.abc import Mapping
from pathlib import Path

from ila_core.config import (
    OptimizerSettings,
    Schedule,
    ScorerSettings,
    SearchConfig,
    Stage1Settings,
    Stage2Settings,
)
from ila_core.data.batches import planned_steps
from ila_core.data.prepared import Prepared, Split
from ila_core.errors import CheckError, UserError, unknown_name
from ila_core.search.scorers import ILA, SCORERS, check_scorer
from ila_core.train.experts import check_experts
from tasks.cache.payloads import read_json, write_result
from tasks.cache.step import Context, Step
from tasks.steps.base import Base

VERSION = 6


def stage1(
    base: Base, data: Step, dataset: str, search: SearchConfig, schedule: Schedule, seed: int
) -> Step:
    """Describe stage 1 of one dataset and search seed."""
    settings = search.stage1
    base.check_rank("search.stage1.lora.r", settings.lora.r)
    check_experts(base.layers, "lora", settings.lora, "search.stage1.lora")
    identity: dict[str, object] = {"settings": settings, "schedule": schedule, "seed": seed}
    if settings.ranking_stop is not None:
        scorer = settings.ranking_stop.scorer
        able = [name for name, known in SCORERS.items() if known.needs in ("adapter", "rows")]
        if scorer not in able:
            raise unknown_name("search.stage1.ranking_stop.scorer", scorer, able)
        check_scorer(scorer, base.layers)
        identity["scorer version"] = SCORERS[scorer].version
    return Step(
        "stage1",
        label=f"stage1 {dataset} seed {seed}",
        version=VERSION,
        identity=base.identify_training(**identity),
        inputs={"data": data},
        given={
            "base": base,
            "search": search,
            "schedule": schedule,
            "seed": seed,
            "names": {"dataset": dataset, "seed": seed},
        },
    )


def compute(step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
    from ila_core.search.ranking_stop import RankingStop
    from ila_core.search.stage1 import learn_adapter

    given = step.given
    base: Base = given["base"]
    search: SearchConfig = given["search"]
    settings: Stage1Settings = search.stage1
    splits = Prepared.load(inputs["data"]).splits
    check_rows({split: len(rows) for split, rows in splits.items()}, search)
    stop = None
    if settings.ranking_stop is not None:
        batch_size = settings.optimizer.batch_size
        stop = RankingStop(
            base.layers,
            splits[settings.ranking_stop.scoring.rows],
            settings.ranking_stop,
            planned=planned_steps(given["schedule"], len(splits["train"]), batch_size),
            seed=given["seed"],
            micro_batch=context.runtime.micro_batch,
        )
    result = learn_adapter(
        base.load(context.runtime),
        [layer.name for layer in base.layers],
        splits["train"],
        settings,
        given["schedule"],
        seed=given["seed"],
        adapter_folder=out / "adapter",
        ranking_stop=stop,
        base_name=base.address,
        runtime=context.training(step.label),
    )
    write_result(out / "stage1.json", result, context)


def check_rows(conversations: Mapping[Split, int], search: SearchConfig) -> None:
    """Check the splits that later steps read, by their sizes, before training for hours.

    Raises:
        UserError: when a split has fewer conversations than one batch of its reader.
    """
    check_batch("search.stage1.optimizer.batch_size", search.stage1.optimizer, conversations)
    readers: list[tuple[str, str, Stage2Settings | ScorerSettings]] = []
    if search.scorer == ILA:
        readers.append((ILA, "stage2", search.stage2))
    elif SCORERS[search.scorer].needs == "rows":
        readers.append((search.scorer, "scoring", search.scoring))
    if (stop := search.stage1.ranking_stop) and SCORERS[stop.scorer].needs == "rows":
        readers.append((stop.scorer, "stage1.ranking_stop.scoring", stop.scoring))
    for scorer, field, settings in readers:
        found = conversations[settings.rows]
        if found < settings.batch_size:
            raise UserError(
                f"{scorer} would read the split {settings.rows!r}, whose {found} conversations are "
                f"fewer than one batch of search.{field}.batch_size {settings.batch_size}; give "
                "more conversations, or a smaller batch"
                + (" (data.gate_fraction sets their share)" if settings.rows == "gate" else "")
            )


def check_batch(
    field: str, optimizer: OptimizerSettings, conversations: Mapping[Split, int]
) -> None:
    """Check that one step of a training finds as many conversations as it takes.

    Raises:
        UserError: when there are fewer.
    """
    if conversations["train"] < optimizer.batch_size:
        raise UserError(
            f"{field}: given {optimizer.batch_size:,}, and {conversations['train']:,} "
            "conversations are trained on; give more conversations, or a smaller batch"
        )


def behind(adapter: Step, seed: int, milestone: float | None) -> str:
    """Return the label's suffix for an adapter of another seed or of a milestone."""
    of = f" on stage1 seed {adapter.given['seed']}" if adapter.given["seed"] != seed else ""
    return of if milestone is None else f"{of} at {100 * milestone:g} %"


def adapter_folder(stage1: Path, milestone: float | None) -> Path:
    """Return the folder of a stage-1 adapter: the last one, or that of a milestone.

    Raises:
        CheckError: when stage 1 ended before the milestone.
    """
    if milestone is None:
        return stage1 / "adapter"
    folder = stage1 / "milestones" / f"{milestone:g}"
    if not folder.exists():
        steps = read_json(stage1 / "stage1.json")
        raise CheckError(
            f"stage 1 ended after {steps['steps']} of {steps['planned_steps']} steps, before its "
            f"milestone at {100 * milestone:g} %"
        )
    return folder


def stage1_end(stage1: Path) -> dict[str, bool]:
    """Return what a payload of scores records about its stage 1."""
    return {"stable": read_json(stage1 / "stage1.json")["stable"]}
