"""Policies: what each freezes, what each needs, and that a control is a control."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ila_core.config import (
    AdaLoraMethod,
    ArmConfig,
    ControlSettings,
    EvidenceSettings,
    LoraMethod,
    LoraSettings,
    OptimizerSettings,
    Schedule,
    ScorerSettings,
    SearchConfig,
    StabilitySettings,
    Stage1Settings,
    Stage2Settings,
)
from ila_core.errors import UserError
from ila_core.search.ranking import LayerScores, Ranking
from ila_core.selection.policies import POLICIES
from ila_core.selection.select import lora_parameters, plainest, required_datasets, select
from ila_core.selection.selection import Selection

SHAPES = {
    "self_attn.q_proj": (64, 64),
    "self_attn.k_proj": (16, 64),
    "mlp.up_proj": (160, 64),
    "mlp.down_proj": (64, 160),
}
LORA = LoraMethod(lr=1e-3, steps=10, r=8, alpha=16, dropout=0)
SEARCH = SearchConfig(
    schedules={"lima": Schedule(lr=1e-3, steps=10), "dolly": Schedule(lr=1e-3, steps=10)},
    seeds=(0,),
    keep=0.75,
    least=0.25,
    stage1=Stage1Settings(
        lora=LoraSettings(r=4, alpha=8, dropout=0),
        optimizer=OptimizerSettings(
            batch_size=4, weight_decay=0, warmup_ratio=0, max_grad_norm=1
        ),
        stability=StabilitySettings(epsilon=0.01, window=2, patience=1, floor=0, ceiling=1),
    ),
    stage2=Stage2Settings(
        rows="train", batches=2, batch_size=4, initial_score=0, optimizer="sgd", lr=1,
        weight_decay=0, schedule="constant", max_grad_norm=0,
    ),
    scorer="ila",
    scoring=ScorerSettings(rows="train", batches=1, batch_size=4),
    evidence=EvidenceSettings(scorers=(), held_out=4, fractions=(0.5,), random_orders=2),
    control=ControlSettings(seeds=(0,), fraction=0.25, factor=3),
)  # fmt: skip


def ranking(blocks: int = 8) -> Ranking:
    kinds = list(SHAPES.items())
    layers = tuple(
        LayerScores(
            name=f"model.layers.{i // 4}.{kinds[i % 4][0]}",
            block=i // 4,
            type=kinds[i % 4][0].partition(".")[2],
            shape=kinds[i % 4][1],
            scores={"lima": {"0": float(i * 7 % 32)}, "dolly": {"0": float(i * 7 % 32 + i % 5)}},
        )
        for i in range(4 * blocks)
    )
    return Ranking(
        base_model="tiny", model={}, architecture="a", key="k", scorer="ila", keep=0.75,
        stable={"lima": {"0": True}, "dolly": {"0": True}}, unsure={"lima": None, "dolly": None},
        score_keys={"lima": {"0": "x"}, "dolly": {"0": "y"}},
        data_keys={"lima": "d", "dolly": "e"}, settings={}, versions={}, layers=layers,
    )  # fmt: skip


def choose(policy: str, like: Selection | None = None, **arm: object) -> Selection:
    matched = {"like": "other"} if like is not None else {}
    config = ArmConfig.model_validate({"name": "arm", "policy": policy, **matched, **arm})
    return select(config, ranking(), SEARCH, LORA, like)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_splits_the_layers_in_layer_order(policy: str) -> None:
    like = choose("ila", source="lima")
    reads_like = POLICIES[policy].needs_like or policy == "per_cost"
    selection = choose(policy, like if reads_like else None, source="lima")
    names = [layer.name for layer in ranking().layers]
    assert [n for n in names if n in selection.train] == list(selection.train)
    assert [n for n in names if n in selection.frozen] == list(selection.frozen)
    assert sorted(selection.train + selection.frozen) == sorted(names)
    trained = [layer for layer in ranking().layers if layer.name in selection.train]
    if selection.lora_ranks is None:
        assert selection.trainable_parameters == lora_parameters(trained, 8)
    else:
        assert selection.trainable_parameters == sum(
            selection.lora_ranks[x.name] * sum(x.shape) for x in trained
        )
    assert Selection.model_validate_json(selection.model_dump_json()) == selection


def test_ila_freezes_the_lowest_quarter_of_its_source() -> None:
    scores = ranking().scores("lima")
    selection = choose("ila", source="lima")
    assert len(selection.frozen) == 8
    assert max(scores[n] for n in selection.frozen) < min(scores[n] for n in selection.train)
    assert (selection.source, selection.details) == ("lima", {"layers": 24})


def test_intersection_freezes_what_both_freeze() -> None:
    both = set(choose("ila", source="lima").frozen) & set(choose("ila", source="dolly").frozen)
    selection = choose("intersection")
    assert set(selection.frozen) == both
    assert selection.details == {"least": 0.25, "size": len(both)}


@pytest.mark.parametrize("seed", range(5))
def test_random_control_has_equal_parameters_and_is_another_selection(seed: int) -> None:
    like = choose("ila", source="lima")
    control = choose("freeze_random", like, seed=seed)
    assert control.frozen != like.frozen
    assert control.details["wanted_parameters"] == like.trainable_parameters
    assert control.details["reached_parameters"] == control.trainable_parameters
    assert control.details["difference"] == control.trainable_parameters - like.trainable_parameters
    assert abs(int(control.details["difference"])) <= 0.01 * like.trainable_parameters


def test_random_controls_of_other_seeds_differ() -> None:
    like = choose("ila", source="lima")
    assert len({choose("freeze_random", like, seed=seed).frozen for seed in range(5)}) == 5


@pytest.mark.parametrize(
    ("arm", "datasets", "same"),
    [
        ({"policy": "intersection"}, ["lima"], {"policy": "ila", "source": "lima"}),
        ({"policy": "vote", "votes": 1}, ["lima"], {"policy": "ila", "source": "lima"}),
        ({"policy": "vote", "votes": 2}, ["lima", "dolly"], {"policy": "intersection"}),
        ({"policy": "intersection"}, ["lima", "dolly"], {"policy": "intersection"}),
        ({"policy": "vote", "votes": 1}, ["lima", "dolly"], {"policy": "vote", "votes": 1}),
        (
            {"policy": "ila", "source": "lima", "keep": 0.75},
            ["lima"],
            {"policy": "ila", "source": "lima"},
        ),
        ({"policy": "ila", "source": "lima", "keep": 1.0}, ["lima"], {"policy": "all"}),
        (
            {"policy": "ila", "source": "lima", "layers": 3},
            ["lima"],
            {"policy": "ila", "source": "lima", "layers": 3},
        ),
    ],
)
def test_arms_that_come_to_the_same_are_one(
    arm: dict[str, object], datasets: list[str], same: dict[str, object]
) -> None:
    given = ArmConfig.model_validate({"name": "arm", **arm})
    found = plainest(given, datasets, SEARCH)
    assert found == ArmConfig.model_validate({"name": "arm", **same})
    tree = ranking().model_dump()
    for field in ("score_keys", "stable", "unsure", "data_keys"):
        tree[field] = {name: tree[field][name] for name in datasets}
    for layer in tree["layers"]:
        layer["scores"] = {name: layer["scores"][name] for name in datasets}
    of_these = Ranking.model_validate(tree)
    first, second = (select(x, of_these, SEARCH, LORA, None) for x in (given, found))
    assert (first.train, first.frozen) == (second.train, second.frozen)


def test_random_control_of_all_layers_still_freezes_something() -> None:
    control = choose("freeze_random", choose("all"))
    assert len(control.frozen) == 1
    assert control.details["difference"] == -8 * (16 + 64)


def test_one_layer_is_too_few_for_another_random_selection() -> None:
    document = ranking().model_dump()
    one = Ranking.model_validate({**document, "layers": document["layers"][:1]})
    arm = ArmConfig(name="random", policy="freeze_random", like="ila")
    like = Selection(
        policy="ila", source="lima", train=(), frozen=(one.layers[0].name,),
        trainable_parameters=0, details={},
    )  # fmt: skip
    with pytest.raises(UserError, match=r"leave no selection other than that of 'ila'"):
        select(arm, one, SEARCH, LORA, like)


def test_the_same_control_in_every_process() -> None:
    code = (
        "from tests.ila_core.selection.test_select import choose;"
        "print(choose('freeze_random', choose('ila', source='lima'), seed=3).frozen)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={
                **os.environ,
                "PYTHONHASHSEED": hash_seed,
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
            cwd=os.path.dirname(__file__),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_a_selection_needs_only_the_scores_its_policy_reads() -> None:
    document = ranking().model_dump()
    for name in ("score_keys", "data_keys", "stable", "unsure"):
        document[name] = {}
    for layer in document["layers"]:
        layer["scores"] = {}
    bare = Ranking.model_validate(document)
    arm = ArmConfig(name="baseline", policy="all")
    assert required_datasets(arm, ("lima", "dolly")) == ()
    assert select(arm, bare, SEARCH, LORA, None) == choose("all")
    assert required_datasets(ArmConfig(name="i", policy="intersection"), ("lima", "dolly")) == (
        "lima",
        "dolly",
    )


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"policy": "intersecton"}, "did you mean 'intersection'"),
        ({"policy": "ila"}, r"'ila' needs `source:`.*lima, dolly"),
        ({"policy": "ila", "source": "lime"}, "did you mean 'lima'"),
        ({"policy": "freeze_random"}, r"in `like:`"),
    ],
)
def test_bad_arms_say_what_is_needed(arm: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose(**arm)


def test_per_cost_counts_from_where_gates_start() -> None:
    document = ranking().model_dump()
    gates = {"stage2": {"settings.initial_score": "10.0"}}
    started = Ranking.model_validate({**document, "settings": {"lima": gates}})
    arm = ArmConfig(name="arm", policy="per_cost", source="lima", parameters=15_000)
    plain = select(arm, ranking(), SEARCH, LORA, None)
    found = select(arm, started, SEARCH, LORA, None)
    scores = started.scores("lima")
    # From 0 a layer with a score below 10 is worth its few parameters; from 10 on its update does
    # harm, and it comes only after all that do good.
    assert min(scores[n] for n in plain.train) < 10
    assert found.train != plain.train
    cost = {x.name: lora_parameters([x], 8) for x in started.layers}
    good = [n for n in found.train if scores[n] > 10]
    left = [n for n in found.frozen if scores[n] > 10]
    spent = sum(cost[n] for n in good)
    assert good and all(spent + cost[n] > 15_000 for n in left)
    assert started.start("lima") == 10 and ranking().start("lima") == 0


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"policy": "per_cost", "source": "lima"}, "per_cost needs a limit"),
        ({"policy": "per_cost", "source": "lima", "like": "x", "parameters": 9}, "no other limit"),
        ({"policy": "ila", "source": "lima", "like": "x"}, "`like` is what limits"),
        ({"policy": "intersection", "keep": 0.5}, "does not heed `keep`"),
        ({"policy": "vote", "votes": 3}, "votes 3, but the ranking has 2 datasets"),
    ],
)
def test_limits_that_a_policy_cannot_heed(arm: dict[str, object], message: str) -> None:
    config = ArmConfig.model_validate({"name": "arm", **arm})
    with pytest.raises(UserError, match=message):
        select(config, ranking(), SEARCH, LORA, choose("all"))


def test_ranks_by_score_fall_with_the_score_and_keep_the_budget() -> None:
    soft = choose("rank_by_score", source="lima")
    scores = ranking().scores("lima")
    by_score = sorted(soft.train, key=lambda n: -scores[n])
    assert soft.lora_ranks is not None
    ranks = [soft.lora_ranks[n] for n in by_score]
    assert ranks == sorted(ranks, reverse=True) and ranks[0] > 8 > ranks[-1] >= 1
    whole = choose("all").trainable_parameters
    assert 0.97 * whole < soft.trainable_parameters <= whole
    adalora = AdaLoraMethod(
        **{"lr": 1, "steps": 9, "r": 2, "initial_r": 3, "alpha": 1, "dropout": 0, "warmup": 0},
        **{"final": 0, "every": 1, "beta1": 0.5, "beta2": 0.5, "orthogonality": 0.5},
    )
    arm = ArmConfig(name="arm", policy="rank_by_score", source="lima")
    with pytest.raises(UserError, match="only LoRA and QLoRA"):
        select(arm, ranking(), SEARCH, adalora, None)


def test_a_control_of_an_arm_that_freezes_nothing_trains_everything() -> None:
    control = choose("freeze_random", choose("all"), match="layers")
    assert control.frozen == () and control.details["size"] == 0
