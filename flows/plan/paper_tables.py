"""The arms of the paper's Tables 1 and 3 to 11, on whatever model and data a profile has.

Each of the paper's arms that freezes layers has two controls: random layers with as many
parameters, and as many random layers. Tables with an arm in common share its cached steps.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from flows.plan.arms import Arms, train_arms
from flows.plan.evidence import Steps, StepsOfSeeds
from ila_core.config import ArmConfig, FinetuneConfig, Profile
from ila_core.errors import UserError
from tasks.cache.step import relabel
from tasks.steps.base import Base

LIMA, NO_ROBOTS, ALPACA = "lima", "no_robots", "alpaca_gpt4"


class Table(NamedTuple):
    """A table of the paper, with the same rows on each of its datasets."""

    title: str
    datasets: tuple[str, ...]
    """The paper's datasets."""
    rows: Mapping[str, str]
    """The paper's label of a row to our arm."""
    against: str = "lora"
    """The arm that the others are compared with."""
    note: str = ""


_METHODS = {
    "AdaLoRA": "adalora",
    "Full fine-tuning": "full",
    "Full fine-tuning w/ ILA": "full-ila",
    "LoRA": "lora",
    "LoRA w/ ILA": "lora-ila",
}

TABLES: dict[str, Table] = {
    "table1": Table(
        "Table 1: regions of the model",
        (LIMA,),
        {
            "ATT (q, k, v, o)": "attention",
            "ATT2 (q, k, v)": "qkv",
            "FFN (up, down, gate)": "ffn",
            "LoRA": "lora",
        },
    ),
    "table3": Table("Table 3: methods", (NO_ROBOTS,), _METHODS),
    "table4": Table("Table 4: methods", (LIMA,), _METHODS),
    "table5": Table(
        "Table 5: the most important 10, 20 and 30 %",
        (NO_ROBOTS,),
        {"LoRA": "lora", **{f"LoRA w/ ILA ({n} %)": f"lora-ila-{n}" for n in (10, 20, 30)}},
    ),
    "table6": Table(
        "Table 6: QLoRA",
        (LIMA, NO_ROBOTS),
        {
            "QLoRA": "qlora",
            "QLoRA w/ ILA (75 %)": "qlora-ila",
            "QLoRA w/ ILA (30 %)": "qlora-ila-30",
        },
        against="qlora",
        note="The paper's Table 6 repeats the figures of its Table 10 (LoRA, Llama 2-13B); only "
        "its 30 % row is its own. They are no target.",
    ),
    "table8": Table(
        "Table 8: random, first and last layers frozen",
        (NO_ROBOTS,),
        {
            "LoRA": "lora",
            "LoRA w/ RL 1": "lora-ila-random-layers",
            "LoRA w/ RL 2": "lora-ila-random-layers-2",
            "LoRA w/ FL": "first-frozen",
            "LoRA w/ LL": "last-frozen",
            "LoRA w/ ILA": "lora-ila",
            "ours: the most important frozen": "reversed",
            "ours: per parameter": "per-cost",
            "ours: rank by score": "soft-ranks",
            "ours: learning rate by score": "soft-rates",
        },
    ),
    "table9": Table(
        "Table 9: whose ranking",
        (LIMA,),
        {
            "LIMA": "lora-ila-of-lima",
            "No Robots": "lora-ila",
            "Alpaca-GPT4": "lora-ila-of-alpaca",
            "Intersection": "intersection",
            "ours: two of three": "vote",
            "ours: all layers": "lora",
        },
    ),
    "table10": Table(
        "Table 10: scale", (LIMA, NO_ROBOTS), {"LoRA": "lora", "LoRA w/ ILA": "lora-ila"}
    ),
    "table11": Table("Table 11: methods", (ALPACA,), _METHODS),
    "table7": Table(
        "Table 7: memory",
        (NO_ROBOTS,),
        {
            "LoRA (100 %)": "lora",
            "LoRA w/ ILA (30 %)": "lora-ila-30",
            "QLoRA (100 %)": "qlora",
            "QLoRA w/ ILA (30 %)": "qlora-ila-30",
        },
    ),
}


def table_arms(
    names: Sequence[str], profile: Profile, base: Base, data: Steps, scores: StepsOfSeeds
) -> dict[str, Arms]:
    """Describe the arms of these tables, by the paper's dataset.

    Raises:
        UserError: when the profile lacks a table's dataset or method.
    """
    found = {}
    tables = [TABLES[name] for name in names]
    for dataset in dict.fromkeys(dataset for table in tables for dataset in table.datasets):
        wanted = {
            arm
            for table in tables
            if dataset in table.datasets
            for arm in (*table.rows.values(), table.against)
        }
        finetuning = finetuning_on(profile, dataset, wanted)
        evaluation = profile.evaluate.model_copy(update={"against": finetuning.arms[0].name})
        arms = train_arms(base, data, scores, profile.search, finetuning, evaluation)
        if finetuning.dataset != profile.finetune.dataset:
            known = [*data.values(), *(step for of in scores.values() for step in of.values())]
            relabel(arms.steps, f" on {finetuning.dataset}", but=known)
        found[dataset] = arms
    return found


def finetuning_on(profile: Profile, dataset: str, wanted: set[str]) -> FinetuneConfig:
    """Return the profile's fine-tuning with these arms, on its stand-in for a paper's dataset.

    Args:
        wanted: names of the arms; their controls are included.
    """
    arms = [
        arm
        for arm in _all_arms(lambda role: stand_in(profile, role))
        if arm.name in wanted or (arm.policy == "freeze_random" and arm.like in wanted)
    ]
    here = stand_in(profile, dataset)
    if here not in (profile.finetune.dataset, *profile.finetune.other_datasets):
        raise UserError(
            f"the table fine-tunes on {dataset}, and the settings of profile {profile.name!r} are "
            f"for {profile.finetune.dataset}: take the profile of this model for {dataset}, or "
            f"name {here} in finetune.other_datasets if the settings are as good for it"
        )
    tree = profile.finetune.model_dump() | {
        "dataset": here,
        "arms": [arm.model_dump() for arm in arms],
    }
    return FinetuneConfig.model_validate(tree)


def stand_in(profile: Profile, dataset: str) -> str:
    """Return the profile's dataset for one of the paper's, by name or by its `stands_for`.

    Raises:
        UserError: when the profile has none.
    """
    for own in profile.datasets:
        if dataset in (own.name, own.stands_for):
            return own.name
    raise UserError(
        f"profile {profile.name!r} has no dataset {dataset!r}, nor one that says `stands_for: "
        f"{dataset}`"
    )


def _all_arms(own: Callable[[str], str]) -> list[ArmConfig]:
    """Return the arms of all tables; `own` maps the paper's datasets to the profile's."""
    lima, no_robots, alpaca = own(LIMA), own(NO_ROBOTS), own(ALPACA)
    ila = {"policy": "ila", "source": no_robots, "keep": 0.75}
    arms = [
        _arm("lora", policy="all"),
        _arm("qlora", policy="all", method="qlora"),
        _arm("full", policy="all", method="full"),
        _arm("adalora", policy="all", method="adalora"),
        *_controlled(_arm("attention", policy="attention")),
        *_controlled(_arm("qkv", policy="attention_qkv")),
        *_controlled(_arm("ffn", policy="feed_forward")),
        *_controlled(_arm("lora-ila", **ila)),
    ]
    arms.append(arms[-1].model_copy(update={"name": "lora-ila-random-layers-2", "seed": 1}))
    for n in (10, 20, 30):
        arms += _controlled(_arm(f"lora-ila-{n}", **ila | {"keep": n / 100}))
    return [
        *arms,
        *_controlled(_arm("full-ila", method="full", **ila)),
        *_controlled(_arm("qlora-ila", method="qlora", **ila)),
        *_controlled(_arm("qlora-ila-30", method="qlora", **ila | {"keep": 0.3})),
        _arm("first-frozen", policy="freeze_first", keep=0.75),
        _arm("last-frozen", policy="freeze_last", keep=0.75),
        _arm("reversed", **ila | {"policy": "reversed"}),
        _arm("per-cost", policy="per_cost", source=no_robots, like="lora-ila"),
        _arm("soft-ranks", policy="rank_by_score", source=no_robots),
        _arm("soft-rates", policy="rate_by_score", source=no_robots),
        *_controlled(_arm("lora-ila-of-lima", **ila | {"source": lima})),
        *_controlled(_arm("lora-ila-of-alpaca", **ila | {"source": alpaca})),
        *_controlled(_arm("intersection", policy="intersection")),
        *_controlled(_arm("vote", policy="vote")),
    ]


def _arm(name: str, **fields: object) -> ArmConfig:
    return ArmConfig(name=name, **fields)


def _controlled(arm: ArmConfig) -> list[ArmConfig]:
    """Return the arm and its two random controls, with as many parameters and as many layers."""
    control = {"policy": "freeze_random", "like": arm.name, "method": arm.method}
    return [
        arm,
        _arm(f"{arm.name}-random-parameters", match="parameters", **control),
        _arm(f"{arm.name}-random-layers", match="layers", **control),
    ]
