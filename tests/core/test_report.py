"""The report from a made-up run: statistics, tables, and a page that needs nothing else."""

from __future__ import annotations

import functools
import math
import random
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from ila_core.agreement import agreements, intersection
from ila_core.config import Profile
from ila_core.errors import CheckError
from ila_core.ranking import LayerScores, Ranking
from ila_core.report import ReportData, figures, tables
from ila_core.report.comparison import compare_arms
from ila_core.report.headline import headline
from ila_core.report.page import build_page
from ila_core.selection import Selection, select

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
LORA = {"r": 4, "alpha": 8, "dropout": 0}


def make_profile(
    datasets: list[str], seeds: tuple[int, ...], arms: list[dict[str, Any]]
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
            "datasets": [{"name": d, "loader": "file", "path": f"{d}.jsonl"} for d in datasets],
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
            },
            "finetune": schedule
            | {"dataset": datasets[0], "method": "lora", "lora": LORA, "optimizer": OPTIMIZER}
            | {"seeds": seeds, "arms": arms},
            "evaluate": {
                "benchmarks": ["held_out_loss"], "against": "all", "resamples": 500,
                "confidence": 0.95,
            },
        }
    )  # fmt: skip


def make_ranking(
    rng: random.Random, datasets: list[str], seeds: tuple[int, ...], blocks: int
) -> Ranking:
    cells = [(b, t, f"model.layers.{b}.{t}") for b in range(blocks) for t in SHAPES]
    shared = {name: LIFT[t] + 0.8 * math.sin(b / 2) + rng.gauss(0, 0.3) for b, t, name in cells}
    cells.append((None, "lm_head", "lm_head"))
    shared["lm_head"] = 4.0
    drift = {d: {name: rng.gauss(0, 0.35) for name in shared} for d in datasets}
    return Ranking(
        base_model="tiny", model={}, architecture="f" * 12, key="3f9c21a07b4e", scorer="ila",
        score_keys={d: {str(s): "a" * 12 for s in seeds} for d in datasets},
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


@functools.cache
def make_data(
    datasets: tuple[str, ...] = ("terse", "instruct", "dialogue"),
    seeds: tuple[int, ...] = (0, 1),
    blocks: int = 6,
    gain: float = 0.0,
    memory: int | None = 700 * 2**20,
) -> ReportData:
    """A run whose ILA arm is `gain` nats better than all layers and 0.01 better than random."""
    rng = random.Random(0)
    names = list(datasets)
    arms = [
        {"name": "all", "policy": "all"},
        {"name": "ila", "policy": "ila", "source": names[0]},
        {"name": "intersection", "policy": "intersection"},
        {"name": "random", "policy": "freeze_random", "like": "ila"},
    ]
    profile = make_profile(names, seeds, arms)
    ranking = make_ranking(rng, names, seeds, blocks)
    selections: dict[str, Selection] = {}
    for arm in profile.finetune.arms:
        like = selections.get(arm.like or "")
        selections[arm.name] = select(arm, ranking, profile.search, 4, like)
    stage1, stage2 = [], []
    for i, (d, seed) in enumerate((d, s) for d in names for s in seeds):
        steps = 150 + 17 * i
        losses = [2 + 2 * math.exp(-t / 40) + rng.gauss(0, 0.08) for t in range(steps)]
        common = {"dataset": d, "seed": seed, "losses": losses, "peak_memory_bytes": memory}
        scores = ranking.scores(d, str(seed))
        history = [
            [t, {name: x * (1 - math.exp(-t / 15)) for name, x in scores.items()}]
            for t in range(0, 51, 5)
        ]
        stage1.append(
            common
            | {"steps": steps, "planned_steps": 240, "stable": i != 1, "stable_at": steps}
            | {"seconds": 63.0, "trainable_parameters": 40_000}
        )
        stage2.append(common | {"scores": scores, "history": history, "seconds": 17.0})
    evaluations, finetunes = make_arms(rng, profile, selections, gain, memory)
    labels = [f"prepare {d}" for d in names] + [f"stage1 {d} {s}" for d in names for s in seeds]
    return ReportData(
        profile=profile,
        ranking=ranking,
        agreements=agreements(ranking, 0.75),
        intersection=intersection(ranking, 0.25),
        selections=selections,
        arms=compare_arms(
            evaluations, finetunes, finetune=profile.finetune, evaluate=profile.evaluate
        ),
        prepared={
            d: {
                "dataset": d,
                "digest": "e" * 64,
                "rows": {"train": 800 + i, "gate": 100, "held_out": 100},
                "tokens": {s: {"all": 9000, "loss": 5000} for s in ("train", "gate", "held_out")},
                "dropped": {"empty answer": 3, "ends on a user turn <&>": i} if i else {},
                "truncated": 5,
                "duplicates": 2,
            }
            for i, d in enumerate(names)
        },
        stage1=tuple(stage1),
        stage2=tuple(stage2),
        keys={label: f"{rng.getrandbits(48):012x}" for label in labels},
        provenance={
            "git": {"commit": "0" * 40, "dirty": False, "note": "<script>alert(1)</script>"},
            "versions": {"python": "3.11.9", "torch": "2.13.0", "peft": "0.19.1"},
            "hardware": {"cpu": "a processor", "cores": 2, "gpu": None},
        },
    )


def make_arms(
    rng: random.Random,
    profile: Profile,
    selections: dict[str, Selection],
    gain: float,
    memory: int | None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    tokens = [rng.randint(20, 90) for _ in range(100)]
    hard = [rng.gauss(2.2, 0.5) for _ in tokens]
    offsets = {"all": 0.0, "ila": -gain, "intersection": -0.004, "random": -gain + 0.01}
    evaluations, finetunes = [], []
    for arm, seed in [("base", None), *((a, s) for a in offsets for s in profile.finetune.seeds)]:
        offset = offsets.get(arm, 1.3)
        nll = [t * (h + offset + rng.gauss(0, 0.03)) for t, h in zip(tokens, hard, strict=True)]
        evaluations.append(
            {
                "arm": arm, "seed": seed, "benchmark": "held_out_loss",
                "loss": sum(nll) / sum(tokens), "tokens": sum(tokens),
                "conversations": [
                    {"nll": x, "tokens": t} for x, t in zip(nll, tokens, strict=True)
                ],
            }
        )  # fmt: skip
        if arm != "base":
            finetunes.append(
                {
                    "arm": arm, "policy": selections[arm].policy, "seed": seed, "seconds": 95.0,
                    "dataset": profile.finetune.dataset, "peak_memory_bytes": memory,
                    "trainable_parameters": selections[arm].trainable_parameters,
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


@pytest.fixture(scope="module")
def page() -> str:
    return build_page(make_data())


def test_page_is_well_formed_and_asks_for_nothing(page: str) -> None:
    outline = Outline(page)
    assert outline.open == []
    assert outline.scripts == 0
    assert len(outline.ids) == len(set(outline.ids))
    pictures = [a for a in outline.addresses if a.startswith("data:image/png;base64,")]
    inside = [a for a in outline.addresses if a.startswith("#") and a[1:] in outline.ids]
    assert len(outline.addresses) == len(inside) + len(pictures)
    assert "url(http" not in page and "@import" not in page


def test_what_was_given_is_escaped(page: str) -> None:
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "ends on a user turn &lt;&amp;&gt;" in page


def test_every_picture_says_what_it_shows(page: str) -> None:
    assert page.count("<svg") == len(re.findall(r'<svg role="img" aria-label="[^"]+"', page)) == 10


def test_equal_data_give_equal_pages(page: str) -> None:
    assert build_page(make_data()) == page


def test_every_cell_of_the_heat_map_is_drawn(page: str) -> None:
    assert "Score of every layer on terse: block by layer type; 11 of 43 frozen" in page


@pytest.mark.parametrize(
    "case",
    [
        {"datasets": ("terse",), "seeds": (0,)},
        {"seeds": (0,), "memory": None},
        {"datasets": ("a", "b"), "blocks": 1},
        {
            "blocks": 32,
            "seeds": (0, 1, 2),
            "datasets": ("lima", "no_robots", "alpaca_gpt4", "dolly"),
        },
    ],
)
def test_other_shapes_of_a_run_render(case: dict[str, Any]) -> None:
    page = build_page(make_data(**case))
    assert Outline(page).open == []
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.S).lower().split()


def test_a_run_of_one_arm_renders_without_comparison() -> None:
    data = make_data(("terse",), (0,))
    finetune = data.profile.finetune.model_copy(update={"arms": data.profile.finetune.arms[:1]})
    profile = data.profile.model_copy(update={"finetune": finetune})
    page = build_page(data.model_copy(update={"profile": profile, "arms": data.arms[:1]}))
    assert "Difference of each arm" not in page


def test_names_in_pictures_are_text_whatever_they_hold() -> None:
    grid = tables.layers_grid(make_data().ranking, "terse").rename(index={"q_proj": "<b>$q$"})
    svg = figures.heat_map(grid, grid > 0, title='a<b>&"$x$')
    assert 'aria-label="Score of every layer on a&lt;b&gt;&amp;&quot;$x$' in svg
    assert "<b>" not in svg
    assert "&lt;b&gt;$q$" in svg


def test_labels_are_moved_apart_and_no_further_than_needed() -> None:
    placed = figures._apart({"a": 0.0, "b": 0.1, "c": 5.0}, gap=1.0)
    assert placed == pytest.approx({"a": -0.45, "b": 0.55, "c": 5.0})


def test_headline_says_when_ila_does_not_beat_random() -> None:
    data = make_data(gain=0.05)
    control = data.arms[1].controls[0]
    assert control.verdict == "better"
    assert "does not beat random" not in " ".join(headline(data))
    worse = control.model_copy(update={"low": -0.01, "high": 0.02})
    arms = (data.arms[0], data.arms[1].model_copy(update={"controls": (worse,)}), *data.arms[2:])
    assert "ila does not beat random here." in " ".join(
        headline(data.model_copy(update={"arms": arms}))
    )


def test_headline_says_when_any_freezing_helps() -> None:
    assert "here freezing helps by itself" in " ".join(headline(make_data(gain=0.05)))
    assert "helps by itself" not in " ".join(headline(make_data()))


def test_headline_of_one_dataset_claims_no_agreement() -> None:
    assert "nothing can be said about agreement" in " ".join(headline(make_data(("terse",))))


def test_arms_are_compared_in_order_with_the_base_last() -> None:
    arms = make_data(gain=0.05).arms
    assert [x.arm for x in arms] == ["all", "ila", "intersection", "random", "base"]
    assert arms[0].versus is None
    assert arms[1].versus is not None
    assert arms[1].versus.verdict == "better"
    assert arms[1].versus.difference == pytest.approx(arms[1].loss - arms[0].loss)
    assert arms[1].versus.low < arms[1].versus.difference < arms[1].versus.high
    assert [c.against for c in arms[1].controls] == ["random"]
    assert arms[-1].versus is not None
    assert arms[-1].versus.verdict == "worse"
    assert arms[-1].trainable_parameters is None


def test_other_held_out_rows_are_refused() -> None:
    data = make_data()
    evaluations, finetunes = make_arms(
        random.Random(0), data.profile, data.selections, gain=0, memory=None
    )
    evaluations[-1]["conversations"].pop()
    with pytest.raises(CheckError, match=r"seeds of 'random' .* different held-out conversations"):
        compare_arms(
            evaluations, finetunes, finetune=data.profile.finetune, evaluate=data.profile.evaluate
        )


def test_tables_hold_values_and_format_to_text() -> None:
    data = make_data()
    table = tables.ranking_table(data.ranking, 0.75)
    assert (len(table), table.iloc[0]["layer"], table.iloc[0]["terse rank"]) == (43, "lm_head", 1)
    assert (table["frozen by"].str.contains("terse")).sum() == 11
    grid = tables.layers_grid(data.ranking, "terse")
    assert grid.shape == (8, 7)
    assert grid.loc["lm_head", tables.OUTSIDE] == data.ranking.scores("terse")["lm_head"]
    arms = tables.formatted(tables.arms_table(data.arms, data.selections))
    assert list(arms["frozen layers"])[::4] == ["0", "-"]
    assert list(arms["peak memory"]) == ["700 MiB"] * 4 + ["-"]
    assert list(tables.formatted(tables.agreement_table(data.agreements)).columns)[:3] == [
        "first",
        "second",
        "Jaccard",
    ]


def test_durations_and_sizes_read_well() -> None:
    assert [tables.duration(s) for s in (9, 600, 9000)] == ["9 s", "10 min", "2.5 h"]
    assert [tables.memory(n) for n in (2**20, 3 * 2**30)] == ["1 MiB", "3.00 GiB"]
