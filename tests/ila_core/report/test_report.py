"""The report from a made-up run: statistics, tables, and a page that needs nothing else."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from ila_core.compare.results import Evaluation, Item
from ila_core.errors import CheckError
from ila_core.report import figures, tables
from ila_core.report.benchmark_tables import benchmarks_table
from ila_core.report.comparison import compare_arms
from ila_core.report.headline import headline
from ila_core.report.page import build_page
from ila_core.search.mask_curve import HALF, MaskCurves
from ila_core.search.ranking import Coverage
from tests.helpers.made_up import EVIDENCE, Outline, make_arms, make_data


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
    assert page.count("<svg") == len(re.findall(r'<svg role="img" aria-label="[^"]+"', page)) == 16


def test_equal_data_give_equal_pages(page: str) -> None:
    assert build_page(make_data()) == page


def test_every_cell_of_the_heat_map_is_drawn(page: str) -> None:
    assert "Score of every layer on terse: block by layer type; 11 of 43 frozen" in page


@pytest.mark.parametrize(
    "case",
    [
        {"datasets": ("terse",), "seeds": (0,)},
        {"seeds": (0,), "memory": None},
        {"scorer": "lora_norm"},
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
    ranking = make_data().ranking
    grid = tables.layers_grid(ranking.layers, ranking.scores("terse"))
    grid = grid.rename(index={"q_proj": "<b>$q$"})
    svg = figures.heat_map(grid, grid > 0, title='a<b>&"$x$').inline()
    assert 'aria-label="Score of every layer on a&lt;b&gt;&amp;&quot;$x$' in svg
    assert "<b>" not in svg
    assert "&lt;b&gt;$q$" in svg


def test_labels_are_moved_apart_and_no_further_than_needed() -> None:
    placed = figures._apart({"a": 0.0, "b": 0.1, "c": 5.0}, gap=1.0)
    assert placed == pytest.approx({"a": -0.45, "b": 0.55, "c": 5.0})


def test_headline_says_when_ila_does_not_beat_random() -> None:
    data = make_data(gain=0.05)
    control = data.arms[1].controls[0]
    assert (control.verdict, control.at_best.verdict) == ("better", "better")
    doubt = {"low": -0.01, "high": 0.02}
    not_then = control.at_best.model_copy(update=doubt)
    for changed, said in [
        ({"at_best": not_then}, "ila beats random only at the end of the schedule."),
        (doubt, "ila beats random only at each one's own best step."),
        ({"at_best": not_then, **doubt}, "ila does not beat random here."),
    ]:
        worse = control.model_copy(update=changed)
        ila = data.arms[1].model_copy(update={"controls": (worse,)})
        arms = (data.arms[0], ila, *data.arms[2:])
        assert said in " ".join(headline(data.model_copy(update={"arms": arms})))


def test_the_headline_says_what_the_layers_do_not_hold() -> None:
    data = make_data()
    covered = Coverage(share=0.31, outside="experts.up (12,288)")
    ranking = data.ranking.model_copy(update={"coverage": covered})
    said = headline(data.model_copy(update={"ranking": ranking}))
    assert any(x.startswith("The layers hold 31.0% of the model's matrix weights") for x in said)
    assert "matrix weights" not in " ".join(headline(data))


def test_headline_tells_random_layers_of_equal_parameters_from_as_many() -> None:
    said = " ".join(headline(make_data(gain=0.05)))
    assert "ila is better than random layers of equal parameters (random) (" in said
    assert "ila is not distinguishable from as many random layers (as-many) (" in said


def test_headline_says_when_any_freezing_helps() -> None:
    assert "here freezing helps by itself" in " ".join(headline(make_data(gain=0.05)))
    assert "helps by itself" not in " ".join(headline(make_data()))


def test_headline_says_whether_training_all_layers_overfits() -> None:
    said = " ".join(headline(make_data(gain=0.05, overfit=0.1)))
    assert "Training all layers overfits here (its best step is 120 of 240; from there" in said
    assert "may be regularisation alone, so compare at the best step and with random." in said
    # 0.05 better than its end, 0.05 worse than its best step.
    assert "ila is better than training all layers (-0.0" in said
    assert ", but at each one's own best step worse than it (+0.0" in said
    assert "Even random is better than all, though only at the end of the schedule" in said
    said = " ".join(headline(make_data()))
    assert "Training all layers does not overfit here: its best step is its last." in said
    assert "each one's own best step" not in said
    data = make_data(overfit=0.1)
    unsure = data.arms[0].past_best.model_copy(update={"low": -0.01})
    arms = (data.arms[0].model_copy(update={"past_best": unsure}), *data.arms[1:])
    said = " ".join(headline(data.model_copy(update={"arms": arms})))
    assert "overfit here: its end is not distinguishable from its best step (120 of 240; +" in said
    data = make_data()
    finetune = data.profile.finetune.model_copy(update={"watch": ()})
    profile = data.profile.model_copy(update={"finetune": finetune})
    said = " ".join(headline(data.model_copy(update={"profile": profile})))
    assert "Whether training all layers overfits here is not known" in said


def test_headline_of_one_dataset_claims_no_agreement() -> None:
    assert "nothing can be said about agreement" in " ".join(headline(make_data(("terse",))))


def test_headline_says_what_a_ranking_is_not_to_be_read_without() -> None:
    several, one = " ".join(headline(make_data())), " ".join(headline(make_data(seeds=(0,))))
    ranking = make_data().ranking
    counts = [f"{len(ranking.unsure[d] or ())} on {d}" for d in ranking.datasets]
    assert "Stage 1 was not stable when it ended on terse seed 1: scores may still move." in several
    assert f"whether to keep {counts[0]}, {counts[1]} and {counts[2]} of 43 layers" in several
    assert "Stage 1 was not stable when it ended on instruct seed 0" in one
    assert "one search seed only: how sure a layer's place is, is not known" in one
    stable = {d: dict.fromkeys(of_seed, None) for d, of_seed in ranking.stable.items()}
    without_stage1 = ranking.model_copy(update={"stable": stable})
    data = make_data().model_copy(update={"ranking": without_stage1})
    assert "not stable" not in " ".join(headline(data))


def test_a_run_ranked_by_another_scorer_has_no_gates_to_show() -> None:
    page = build_page(make_data(scorer="lora_norm"))
    assert "Of 43 layers the scorer lora_norm keeps 32" in page
    assert "agrees with the scorer lora_norm at" in page
    assert "Stage 2" not in page and "Mean score of each layer type" not in page
    assert page.count('aria-label="Stage-1 loss on') == 3
    assert "Jaccard with lora_norm" in page


@pytest.mark.parametrize("by", ["count", "share"])
def test_mask_curves_have_a_band_of_all_random_orders_on_each_axis(page: str, by: str) -> None:
    of = {"count": "43 layers", "share": "the layers&#x27; weights"}[by]
    for found in make_data().masks:
        label = f'aria-label="Held-out loss on {found["dataset"]} with more and more of {of} closed'
        assert page.count(label) == 1
        curves = MaskCurves.model_validate(found[by])
        drawing = figures.mask_curve_figure(curves, title=found["dataset"])
        (band,) = drawing.figure.axes[0].collections
        drawn = {tuple(corner) for corner in band.get_paths()[0].vertices.tolist()}
        losses = list(zip(*(curve.losses for curve in curves.random), strict=True))
        for fraction, column in zip(curves.random[0].fractions, losses, strict=True):
            assert {(100 * fraction, min(column)), (100 * fraction, max(column))} <= drawn
    assert page.count(">random (3 orders)</text>") == 6


def test_the_scorers_table_holds_each_datasets_heights_and_agreement() -> None:
    data = make_data()
    table = tables.scorers_table(data.ranking, data.profile.search, data.scores, data.masks)
    assert list(table.columns) == [
        *("dataset", "scorer", "above random", "from", "to", "random beaten"),
        *("above random in types", "in types from", "in types to", "Jaccard with ila", "time"),
    ]
    assert list(table["scorer"]) == ["ila", *EVIDENCE] * 3
    for found, (_, rows) in zip(data.masks, table.groupby("dataset", sort=False), strict=True):
        areas = MaskCurves.model_validate(found["count"]).areas
        by_scorer = rows.set_index("scorer")
        for area in (x for x in areas if x.up_to == HALF):
            column = "above random" if area.control == "random" else "above random in types"
            assert by_scorer.at[area.scorer, column] == area.height
        ila, size = by_scorer.loc["ila"], by_scorer.loc["size"]
        assert ila["from"] > 0 and ila["random beaten"] == "3 of 3"
        assert ila["above random"] == by_scorer["above random"].max()
        assert ila["Jaccard with ila"] == 1 > size["Jaccard with ila"]
        assert (
            size["above random in types"] != size["above random in types"]
        )  # controls of the ranking's scorer
        assert (ila["time"], size["time"]) == (17.0, 0.5)
    text = tables.formatted(table)
    assert list(text["above random in types"] == "-") == [False, True, True] * 3


def test_what_an_update_is_worth_adds_up(page: str) -> None:
    data = make_data()
    names = [layer.name for layer in data.ranking.layers]
    worth = [
        {
            "dataset": dataset,
            "seed": seed,
            "scorer": "integrated_gradients",
            "scores": {name: 0.01 * i + shift for i, name in enumerate(names)},
            "remainder": 0.5 + shift,
        }
        for dataset, seed, shift in (("terse", 0, 0.0), ("terse", 1, 0.2), ("dialogue", 0, 0.1))
    ]
    table = tables.nats_table(data.ranking, worth).set_index("update of")
    assert list(table.columns) == ["terse", "dialogue"]
    assert list(table.index) == ["the whole update", "not attributed", *reversed(names)]
    assert table.at[names[3], "terse"] == pytest.approx(0.13)
    assert table.at["not attributed", "terse"] == pytest.approx(0.6)
    for column in table.columns:
        assert table[column].iloc[1:].sum() == pytest.approx(table.at["the whole update", column])
    assert tables.nats_table(data.ranking, data.scores).empty
    assert ">update of</th>" not in page
    shown = build_page(data.model_copy(update={"scores": (*data.scores, *worth)}))
    assert ">update of</th>" in shown


def test_no_column_takes_another_tables_format() -> None:
    table = tables.formatted(tables.agreement_table(make_data().agreements))
    assert {*table["above"], *table["above in types"]} <= {"yes", "no"}


def test_the_unsure_are_those_whose_seeds_disagree(page: str) -> None:
    data = make_data()
    table = tables.ranking_table(data.ranking, 0.75).set_index("layer")
    for dataset in data.ranking.datasets:
        marked = table.index[table["unsure on"].str.split(", ").map(lambda x, d=dataset: d in x)]
        assert set(marked) == set(data.ranking.unsure[dataset] or ()) != set()
    assert ">unsure on</th>" in page
    assert "unsure on" not in tables.ranking_table(make_data(seeds=(0,)).ranking, 0.75)


def test_correlation_within_types_is_on_the_page(page: str) -> None:
    data = make_data()
    table = tables.within_types_table(data.within_types)
    assert list(zip(table["first"], table["second"], strict=True)) == [
        ("terse", "instruct"), ("terse", "dialogue"), ("instruct", "dialogue"),
    ]  # fmt: skip
    assert list(table["rho in types"]) == [x.rho for x in data.within_types]
    assert list(table["above"]) == [x.above_chance for x in data.within_types]
    assert {f"rho {kind}" for kind in data.within_types[0].by_type} < set(table.columns)
    assert "Rank correlation within layer types" in page
    one = build_page(make_data(("terse",), (0,)))
    assert "Rank correlation within layer types" not in one


def test_arms_are_compared_in_order_with_the_base_last() -> None:
    arms = make_data(gain=0.05).arms
    assert [x.arm for x in arms] == ["all", "ila", "intersection", "random", "as-many", "base"]
    assert arms[0].versus is None
    assert arms[1].versus is not None
    assert arms[1].versus.verdict == "better"
    assert arms[1].versus.difference == pytest.approx(arms[1].loss - arms[0].loss)
    assert arms[1].versus.low < arms[1].versus.difference < arms[1].versus.high
    assert [(c.against, c.match) for c in arms[1].controls] == [
        ("random", "parameters"),
        ("as-many", "layers"),
    ]
    assert arms[-1].versus is not None
    assert arms[-1].versus.verdict == "worse"
    assert arms[-1].trainable_parameters is None


def test_other_held_out_rows_are_refused() -> None:
    data = make_data()
    evaluations, finetunes = make_arms(
        random.Random(0), data.profile, data.selections, gain=0, memory=None
    )
    evaluations[-1]["items"].pop()
    with pytest.raises(CheckError, match=r"seeds of 'as-many' .* different held-out conversations"):
        compare_arms(
            evaluations, finetunes, finetune=data.profile.finetune, evaluate=data.profile.evaluate
        )


def test_losses_on_the_way_are_of_the_conversations_that_a_limited_evaluation_took() -> None:
    data = make_data(overfit=0.1)
    evaluations, finetunes = make_arms(
        random.Random(0), data.profile, data.selections, gain=0, memory=None, overfit=0.1
    )
    for evaluation in evaluations:
        evaluation["items"] = evaluation["items"][:30]
    limit = data.profile.evaluate.model_copy(update={"limit": 30})
    arms = compare_arms(evaluations, finetunes, finetune=data.profile.finetune, evaluate=limit)
    taken = [
        next(w for w in f["watched"] if w["step"] == arms[0].best_step)["conversations"][:30]
        for f in finetunes
        if f["arm"] == "all"
    ]
    losses = [sum(c["nll"] for c in x) / sum(c["tokens"] for c in x) for x in taken]
    assert arms[0].best_loss == pytest.approx(sum(losses) / len(losses))
    assert arms[0].past_best is not None


def test_tables_hold_values_and_format_to_text() -> None:
    data = make_data()
    table = tables.ranking_table(data.ranking, 0.75)
    assert (len(table), table.iloc[0]["layer"], table.iloc[0]["terse rank"]) == (43, "lm_head", 1)
    assert (table["frozen by"].str.contains("terse")).sum() == 11
    grid = tables.layers_grid(data.ranking.layers, data.ranking.scores("terse"))
    assert grid.shape == (8, 7)
    assert grid.loc["lm_head", tables.OUTSIDE] == data.ranking.scores("terse")["lm_head"]
    arms = tables.formatted(tables.arms_table(data.arms, data.selections))
    assert list(arms["frozen layers"])[::5] == ["0", "-"]
    assert list(arms["peak memory"]) == ["700 MiB"] * 5 + ["-"]
    assert list(arms["best step"]) == ["240 of 240"] * 5 + ["-"]
    controls = tables.formatted(tables.controls_table(data.arms, data.selections))
    assert list(controls["equal"]) == ["parameters", "layers"]
    assert {"difference", "verdict", "difference at best", "high at best"} < set(controls.columns)
    assert re.fullmatch(r"[+-]0\.\d{4}", controls["low at best"][0])
    assert list(tables.formatted(tables.agreement_table(data.agreements)).columns)[:3] == [
        "first",
        "second",
        "Jaccard",
    ]


def test_durations_and_sizes_read_well() -> None:
    assert [tables.duration(s) for s in (9, 600, 9000)] == ["9 s", "10 min", "2.5 h"]
    assert [tables.memory(n) for n in (2**20, 3 * 2**30)] == ["1 MiB", "3.00 GiB"]


def test_other_benchmarks_stand_beside_the_arm_that_they_are_compared_with() -> None:
    def answered(right: int, seed: int) -> Evaluation:
        values = [float(i < right) for i in range(200)]
        random.Random(seed).shuffle(values)
        items = tuple(Item(id=str(i), value=v) for i, v in enumerate(values))
        return Evaluation(
            benchmark="mmlu", unit="accuracy", better="higher", chance=0.25, items=items
        )

    found = {
        "all": {"mmlu": (answered(120, 0), answered(122, 0))},
        "ila": {"mmlu": (answered(50, 0), answered(52, 0))},
    }
    data = make_data().model_copy(update={"benchmarks": found})
    table = benchmarks_table(data.benchmarks, data.profile.evaluate)
    assert table["value"].tolist() == pytest.approx([0.605, 0.255])
    assert table["difference"].tolist()[1] == pytest.approx(-0.35)
    assert table["high"].tolist()[1] < 0
    assert table["at chance"].tolist() == [False, True]
    assert "Other benchmarks, and each arm beside all" in build_page(data)
    assert "Other benchmarks" not in build_page(make_data())
