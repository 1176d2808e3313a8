"""Order, counts and the ranking document."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ila_core.errors import UserError
from ila_core.keys import digest_of
from ila_core.models.layers import Layer
from ila_core.search.ranking import (
    Coverage,
    LayerScores,
    Ranking,
    exact,
    kept_count,
    least,
    order,
)

LAYERS = [
    Layer(name=f"model.layers.{i}.q_proj", block=i, type="q_proj", shape=(4, 4)) for i in range(4)
]


def make(scores: dict[str, dict[str, list[float]]]) -> Ranking:
    return Ranking(
        base_model="tiny",
        model={},
        architecture="a" * 12,
        key="k" * 12,
        scorer="ila",
        keep=0.75,
        score_keys={d: {seed: "s" * 12 for seed in seeds} for d, seeds in scores.items()},
        stable={d: dict.fromkeys(seeds, True) for d, seeds in scores.items()},
        unsure=dict.fromkeys(scores),
        data_keys={d: "d" * 12 for d in scores},
        settings={},
        versions={},
        layers=tuple(
            LayerScores(
                **layer.model_dump(),
                scores={d: {s: v[i] for s, v in seeds.items()} for d, seeds in scores.items()},
            )
            for i, layer in enumerate(LAYERS)
        ),
    )


@pytest.mark.parametrize(
    ("fraction", "n", "kept"),
    [(0.75, 225, 169), (0.75, 43, 32), (0.75, 281, 211), (1.0, 7, 7), (0.7, 85, 60), (0.1, 225, 23),
     (1e-5, 50_000, 1), (Fraction(3, 10), 5, 2)],
)  # fmt: skip
def test_kept_count_is_floor_of_a_half_more(fraction: float, n: int, kept: int) -> None:
    assert kept_count(fraction, n) == kept


@given(st.integers(1, 999), st.integers(1, 300))
def test_counts_are_those_of_the_decimal_that_was_written(thousandths: int, n: int) -> None:
    fraction = thousandths / 1000
    assert kept_count(fraction, n) == (2 * thousandths * n + 1000) // 2000
    rest = kept_count(1 - exact(fraction), n)
    assert rest == (2 * (1000 - thousandths) * n + 1000) // 2000
    layers = [Layer(name=f"{i}", type="t", shape=(1, 1), block=None) for i in range(n)]
    assert len(least({layer.name: 0.0 for layer in layers}, layers, fraction)) == n - rest


def test_order_is_by_score_then_by_layer_order() -> None:
    names = [layer.name for layer in LAYERS]
    scores = dict(zip(names, [0.0, 1.0, 0.0, 1.0], strict=True))
    assert order(scores, LAYERS) == [names[1], names[3], names[0], names[2]]
    assert least(scores, LAYERS, 0.25) == {names[2]}


@given(st.lists(st.integers(-3, 3), min_size=4, max_size=4), st.permutations(range(4)))
def test_order_does_not_depend_on_the_order_of_the_scores(values: list[int], by: list[int]) -> None:
    names = [layer.name for layer in LAYERS]
    scores = {names[i]: float(values[i]) for i in by}
    assert order(scores, LAYERS) == sorted(names, key=lambda n: (-scores[n], names.index(n)))


def test_scores_of_a_dataset_are_the_mean_over_its_seeds() -> None:
    ranking = make({"lima": {"0": [1, 2, 3, 4], "1": [3, 2, 1, 0]}})
    assert list(ranking.scores("lima").values()) == [2, 2, 2, 2]
    assert list(ranking.scores("lima", "1").values()) == [3, 2, 1, 0]


def test_saved_and_loaded_it_is_the_same_document(tmp_path: Path) -> None:
    ranking = make({"lima": {"0": [0.1, 1 / 3, -2.5e-7, 4]}})
    ranking.save(tmp_path / "ranking.json")
    loaded = Ranking.load(tmp_path / "ranking.json")
    assert loaded == ranking


def test_what_was_recorded_later_leaves_the_digest_of_older_rankings_alone() -> None:
    older = make({"lima": {"0": [1, 2, 3, 4]}})
    assert older.digest == digest_of(older.model_dump(exclude={"coverage", "rendering"}))
    newer = older.model_copy(update={"coverage": Coverage(share=1, outside="")})
    assert newer.digest == digest_of(newer.model_dump(exclude={"rendering"})) != older.digest


@pytest.mark.parametrize(
    ("text", "said"), [("{}", "schema|Field required"), ("no json", "Invalid JSON")]
)
def test_a_file_that_is_no_ranking(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(UserError, match=rf"other\.json is no ranking .*({said})"):
        Ranking.load(tmp_path / "other.json")


def test_a_layer_without_a_score_is_refused() -> None:
    ranking = make({"lima": {"0": [1, 2, 3, 4]}})
    document = ranking.model_dump()
    document["layers"][2]["scores"] = {}
    with pytest.raises(ValidationError, match=r"layers\.2\.q_proj: scores do not match"):
        Ranking.model_validate(document)


def test_a_document_of_another_version_of_ila_says_so(tmp_path: Path) -> None:
    file = tmp_path / "ranking.json"
    make({"lima": {"0": [1.0, 2.0, 3.0, 4.0]}}).save(file)
    file.write_text(file.read_text().replace('"schema_version": 2', '"schema_version": 3', 1))
    with pytest.raises(UserError, match=r"another version of ILA \(schema 3, and this one reads 2"):
        Ranking.load(file)
