"""A made-up run: what a report is made of, with real statistics over invented numbers."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Collection
from html.parser import HTMLParser
from itertools import combinations
from typing import Any

from ila_core.config import Profile
from ila_core.report.comparison import compare_arms
from ila_core.report.data import ReportData
from ila_core.search.agreement import agreements, intersection
from ila_core.search.agreement_within_types import correlation_within_types
from ila_core.search.certainty import unsure_layers
from ila_core.search.mask_curve import mask_curves
from ila_core.search.ranking import LayerScores, Ranking
from ila_core.search.scorers import ILA, SCORERS
from ila_core.search.scoring import Material
from ila_core.selection.select import select
from ila_core.selection.selection import Selection

SHAPES = {
    "q_proj": (64, 64),
    "k_proj": (21, 64),
    "v_proj": (21, 64),
    "o_proj": (64, 64),
    "gate_proj": (172, 64),
    "up_proj": (172, 64),
    "down_proj": (64, 172),
}
LIFT = dict(zip(SHAPES, (0.3, -0.9, -0.6, 0.4, 0.2, 0.5, 0.9), strict=True))
OPTIMIZER = {"batch_size": 8, "weight_decay": 0.1, "warmup_ratio": 0.01, "max_grad_norm": 1}
EVIDENCE = ["size", "random"]
WATCH = [0.25, 0.5, 0.75]
LORA = {"r": 4, "alpha": 8, "dropout": 0}


def make_profile(
    datasets: list[str], seeds: tuple[int, ...], arms: list[dict[str, Any]], scorer: str
) -> Profile:
    schedule = {"lr": 1e-3, "steps": 240}
    return Profile.model_validate(
        {
            "name": "made-up",
            "description": "A made-up run.",
            "model": {
                "name": "tiny",
                "source": "./tiny",
                "architecture": {"model_type": "llama"},
                "dtype": "float32",
                "lm_head": "untie",
            },
            "datasets": [{"name": d, "source": f"{d}.jsonl"} for d in datasets],
            "data": {"max_length": 128, "held_out_fraction": 0.1, "gate_fraction": 0.1},
            "search": {
                "schedules": dict.fromkeys(datasets, schedule),
                "seeds": seeds,
                "keep": 0.75,
                "least": 0.25,
                "stage1": {
                    "lora": LORA,
                    "optimizer": OPTIMIZER,
                    "stability": {
                        "epsilon": 0.01, "window": 10, "patience": 2, "floor": 0.25, "ceiling": 1,
                    },
                },
                "stage2": {
                    "rows": "gate", "batches": 50, "batch_size": 8, "initial_score": 0,
                    "optimizer": "sgd", "lr": 10, "weight_decay": 0, "schedule": "constant",
                    "max_grad_norm": 0,
                },
                "scorer": scorer,
                "scoring": {"rows": "gate", "batches": 8, "batch_size": 8},
                "evidence": {
                    "scorers": EVIDENCE, "held_out": 12, "fractions": [0.25, 0.5],
                    "random_orders": 3,
                },
                "control": {"seeds": [0], "fraction": 0.25, "factor": 3},
            },
            "finetune": {"dataset": datasets[0], "method": "lora", "lora": schedule | LORA}
            | {"optimizer": OPTIMIZER}
            | {"seeds": seeds, "watch": WATCH, "arms": arms},
            "evaluate": {
                "benchmarks": ["held_out_loss"], "against": "all", "resamples": 500,
                "confidence": 0.95,
            },
        }
    )  # fmt: skip


def make_ranking(
    rng: random.Random, datasets: list[str], seeds: tuple[int, ...], blocks: int, scorer: str
) -> Ranking:
    cells = [(b, t, f"model.layers.{b}.{t}") for b in range(blocks) for t in SHAPES]
    shared = {name: LIFT[t] + 0.8 * math.sin(b / 2) + rng.gauss(0, 0.3) for b, t, name in cells}
    cells.append((None, "lm_head", "lm_head"))
    shared["lm_head"] = 4.0
    drift = {d: {name: rng.gauss(0, 0.35) for name in shared} for d in datasets}
    ranking = Ranking(
        base_model="tiny", model={}, architecture="f" * 12, key="3f9c21a07b4e", scorer=scorer,
        keep=0.75, unsure={},
        score_keys={d: {str(s): "a" * 12 for s in seeds} for d in datasets},
        # Stage 1 of the second column did not become stable.
        stable={
            d: {str(s): i * len(seeds) + j != 1 for j, s in enumerate(seeds)}
            for i, d in enumerate(datasets)
        },
        data_keys={d: "d" * 12 for d in datasets}, settings={}, versions={},
        layers=tuple(
            LayerScores(
                name=name, block=b, type=t, shape=SHAPES.get(t, (512, 64)),
                scores={
                    d: {str(s): shared[name] + drift[d][name] + rng.gauss(0, 0.2) for s in seeds}
                    for d in datasets
                },
            )
            for b, t, name in cells
        ),
    )  # fmt: skip
    unsure = {d: unsure_layers(ranking, d, 0.75) for d in datasets}
    return ranking.model_copy(update={"unsure": unsure})


@functools.cache
def make_data(
    datasets: tuple[str, ...] = ("terse", "instruct", "dialogue"),
    seeds: tuple[int, ...] = (0, 1),
    blocks: int = 6,
    gain: float = 0.0,
    memory: int | None = 700 * 2**20,
    scorer: str = ILA,
    overfit: float = 0.0,
) -> ReportData:
    """A run whose ILA arm is `gain` nats better than all layers and 0.01 better than random.

    Training all layers gets worse by `overfit` nats in the second half of its schedule.
    """
    rng = random.Random(0)
    names = list(datasets)
    arms = [
        {"name": "all", "policy": "all"},
        {"name": "ila", "policy": "ila", "source": names[0]},
        {"name": "intersection", "policy": "intersection"},
        {"name": "random", "policy": "freeze_random", "like": "ila"},
        {"name": "as-many", "policy": "freeze_random", "like": "ila", "match": "layers"},
    ]
    profile = make_profile(names, seeds, arms, scorer)
    ranking = make_ranking(rng, names, seeds, blocks, scorer)
    selections: dict[str, Selection] = {}
    for arm in profile.finetune.arms:
        like = selections.get(arm.like or "")
        selections[arm.name] = select(
            arm, ranking, profile.search, profile.finetune.settings_of(arm), like
        )
    stage1, scored = [], []
    for i, (d, seed) in enumerate((d, s) for d in names for s in seeds):
        steps = 150 + 17 * i
        losses = [2 + 2 * math.exp(-t / 40) + rng.gauss(0, 0.08) for t in range(steps)]
        common = {"dataset": d, "seed": seed, "losses": losses, "peak_memory_bytes": memory}
        scores = ranking.scores(d, str(seed))
        own = {"scorer": scorer, "scores": scores, "seconds": 17.0}
        if scorer == ILA:
            own["history"] = [
                [t, {name: x * (1 - math.exp(-t / 15)) for name, x in scores.items()}]
                for t in range(0, 51, 5)
            ]
        stage1.append(
            common
            | {"steps": steps, "planned_steps": 240, "stable": i != 1, "stable_at": steps}
            | {"stable_by": None if i == 1 else "loss"}
            | {"seconds": 63.0, "trainable_parameters": 40_000}
        )
        scored.append(common | own)
    evidence, masks = make_evidence(ranking, seeds[0])
    columns = [(d, ranking.scores(d)) for d in names]
    evaluations, finetunes = make_arms(rng, profile, selections, gain, memory, overfit)
    labels = [f"prepare {d}" for d in names] + [f"stage1 {d} {s}" for d in names for s in seeds]
    return ReportData(
        profile=profile,
        ranking=ranking,
        agreements=agreements(ranking, 0.75),
        within_types=tuple(
            correlation_within_types(ranking.layers, a=a, b=b, permutations=50)
            for a, b in combinations(columns, 2)
        ),
        intersection=intersection(ranking, 0.25),
        selections=selections,
        arms=compare_arms(
            evaluations, finetunes, finetune=profile.finetune, evaluate=profile.evaluate
        ),
        benchmarks={},
        prepared={
            d: {
                "dataset": d,
                "digest": "e" * 64,
                "rows": {"train": 800 + i, "gate": 100, "held_out": 100},
                "tokens": {s: {"all": 9000, "loss": 5000} for s in ("train", "gate", "held_out")},
                "dropped": {"empty answer": 3, "ends on a user turn <&>": i} if i else {},
                "truncated": 5,
                "duplicates": 2,
                "unreadable": i,
                "tokens_cut": 100,
                "answers": 900,
                "ends_cut": 4,
            }
            for i, d in enumerate(names)
        },
        stage1=tuple(stage1),
        scores=(*scored, *evidence),
        masks=masks,
        keys={label: f"{rng.getrandbits(48):012x}" for label in labels},
        provenance={
            "git": {"commit": "0" * 40, "dirty": False, "note": "<script>alert(1)</script>"},
            "versions": {"python": "3.11.9", "torch": "2.13.0", "peft": "0.19.1"},
            "hardware": {"cpu": "a processor", "cores": 2, "gpu": None},
        },
    )


class MadeUpLoss:
    """Stands for `MaskedLoss`: closing a layer costs what its score says, in every conversation."""

    tokens = (10,) * 12

    def __init__(self, costs: dict[str, float]) -> None:
        self._costs = costs

    def by_conversation(self, closed: Collection[str]) -> tuple[float, ...]:
        loss = 2 + math.fsum(self._costs[name] for name in closed)
        return tuple(n * (loss + 0.01 * i) for i, n in enumerate(self.tokens))

    def loss(self, closed: Collection[str]) -> float:
        return math.fsum(self.by_conversation(closed)) / sum(self.tokens)


def make_evidence(
    ranking: Ranking, seed: int
) -> tuple[list[dict[str, Any]], tuple[dict[str, Any], ...]]:
    """Scores of the other scorers, and mask curves in which the ranking's own order is best."""
    scored, masks = [], []
    for dataset in ranking.datasets:
        names = {"dataset": dataset, "seed": seed, "seconds": 0.5}
        own = ranking.scores(dataset, str(seed))
        columns = {ranking.scorer: own}
        for name in EVIDENCE:
            material = Material(ranking.layers, None, (), None, seed, 8)  # type: ignore[arg-type]
            found = SCORERS[name].score(material)
            scored.append({**found.model_dump(mode="json"), **names, "scorer": name})
            columns[name] = found.scores
        lowest = min(own.values())
        masked: Any = MadeUpLoss({name: 0.01 * (x - lowest) for name, x in own.items()})
        curves = {
            by: mask_curves(
                masked, ranking.layers, columns, by=by, controls_of=[ranking.scorer], seed=seed,
                resamples=20, confidence=0.95, random_orders=3, fractions=[0.25, 0.5],
            ).model_dump(mode="json")
            for by in ("count", "share")
        }  # fmt: skip
        masks.append({**curves, **names, "conversations": len(masked.tokens)})
    return scored, tuple(masks)


def make_arms(
    rng: random.Random,
    profile: Profile,
    selections: dict[str, Selection],
    gain: float,
    memory: int | None,
    overfit: float = 0.0,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    tokens = [rng.randint(20, 90) for _ in range(100)]
    hard = [rng.gauss(2.2, 0.5) for _ in tokens]
    offsets = {"all": 0.0, "ila": -gain, "intersection": -0.004, "random": -gain + 0.01}
    offsets["as-many"] = -gain + 0.002

    def taken(offset: float) -> dict[str, Any]:
        nll = [t * (h + offset + rng.gauss(0, 0.03)) for t, h in zip(tokens, hard, strict=True)]
        found = [{"nll": x, "tokens": t} for x, t in zip(nll, tokens, strict=True)]
        return {"loss": sum(nll) / sum(tokens), "conversations": found}

    evaluations, finetunes = [], []
    for arm, seed in [("base", None), *((a, s) for a in offsets for s in profile.finetune.seeds)]:
        offset = offsets.get(arm, 1.3)
        evaluations.append(
            {
                "arm": arm,
                "seed": seed,
                "benchmark": "held_out_loss",
                "unit": "nats per token",
                "better": "lower",
                "chance": 8.3,
                "items": [
                    {"id": str(i), "value": c["nll"], "weight": c["tokens"]}
                    for i, c in enumerate(taken(offset)["conversations"])
                ],
            }
        )
        if arm != "base":
            way = {60: 0.3, 120: 0.1, 180: 0.05}
            if overfit and arm == "all":
                way = {60: 0.3, 120: -overfit, 180: -overfit / 2}
            finetunes.append(
                {
                    "arm": arm, "policy": selections[arm].policy, "seed": seed, "seconds": 95.0,
                    "dataset": profile.finetune.dataset, "peak_memory_bytes": memory,
                    "trainable_parameters": selections[arm].trainable_parameters, "steps": 240,
                    "watched": [{"step": s, **taken(offset + x)} for s, x in way.items()],
                }
            )  # fmt: skip
    return evaluations, finetunes


class Outline(HTMLParser):
    """Tags that stay open, ids and addresses."""

    VOID = frozenset({"meta", "br", "path", "use", "rect", "stop", "image", "link"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.scripts = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "href", "xlink:href"):
                self.addresses.append(str(value))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag
