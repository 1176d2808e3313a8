"""How rankings are called, whether one serves a model, and what its card says."""

from __future__ import annotations

from pathlib import Path

import pytest

from ila_core.config import ModelConfig
from ila_core.errors import CheckError, UserError
from ila_core.models.layers import fingerprint
from ila_core.search.ranking import MOST_BYTES, Coverage, Ranking
from ila_core.search.ranking_card import make_card, markdown
from ila_core.search.ranking_fit import fit
from ila_core.search.ranking_reference import File, Key, Published, ResolvedRanking, parse
from tests.helpers.made_up import make_data, make_profile


def test_the_four_forms() -> None:
    assert parse("mistral-7b@champion") == Published("mistral-7b", "champion", None)
    assert parse("llama3.1-8b/12") == Published("llama3.1-8b", None, 12)
    assert parse("key:0123456789ab") == Key("0123456789ab")
    assert parse("sent/by/them.json") == File(Path("sent/by/them.json"))


@pytest.mark.parametrize(
    "given",
    [
        "", "demo", "demo@", "@champion", "demo/0", "demo/01", "demo/-1", "demo/x", "demo/1/2",
        "../demo@champion", "a..b@champion", ".hidden@champion", "a/b@champion", "a:b@champion",
        "demo@cham/pion", "demo@..", "demo@latest", "demo@v3", "demo@champion'", "de'mo@champion",
        "demo%@champion", "demo@champion\n", "x" * 81 + "@champion", "key:0123", "key:0123456789AB",
        "models:/demo@champion", "a.json@champion", "\u0430@champion",
    ],
)  # fmt: skip
def test_a_path_trick_or_anything_else_is_refused_by_name(given: str) -> None:
    with pytest.raises(UserError, match=r"no reference|cannot name|cannot be an alias"):
        parse(given)


def test_a_document_larger_than_any_ranking_is_not_read(tmp_path: Path) -> None:
    large = tmp_path / "large.json"
    with large.open("wb") as f:
        f.truncate(MOST_BYTES + 1)
    with pytest.raises(UserError, match="at most 16,777,216"):
        Ranking.load(large)


def ranking() -> Ranking:
    found = make_data().ranking
    return found.model_copy(
        update={"architecture": fingerprint(found.layers), "model": {"files": "a" * 64}}
    )


def test_a_document_whose_layers_were_changed_is_no_longer_whole() -> None:
    whole = ranking()
    whole.check()
    changed = whole.model_copy(update={"layers": whole.layers[1:]})
    with pytest.raises(CheckError, match="changed since it was made"):
        changed.check()


def model(**related: str) -> ModelConfig:
    plain = make_profile(["terse"], (0,), [{"name": "all", "policy": "all"}], "ila").model
    return plain.model_validate(plain.model_dump() | {"name": "chat", "related": related})


def test_the_same_weights_need_no_relation_and_others_need_one() -> None:
    given = ResolvedRanking(ranking(), "tiny@champion", "tiny/1")
    layers = given.ranking.layers
    assert fit(given, model(), {"files": "a" * 64}, layers) == given
    with pytest.raises(UserError) as refused:
        fit(given, model(), {"files": "b" * 64}, layers)
    for said in ("tiny@champion", "a" * 60, "b" * 60, "--relation instruct", "related: {tiny:"):
        assert said in str(refused.value)
    declared = fit(given, model(tiny="quantised"), {"files": "b" * 64}, layers)
    assert declared.relation == "quantised"
    assert declared.ranking == given.ranking
    with pytest.raises(UserError, match=r"does not fit chat: lm_head \(only in the ranking\)"):
        fit(given, model(tiny="quantised"), {"files": "b" * 64}, layers[:-1])


def test_the_card_says_what_is_known_and_what_is_not() -> None:
    found = ranking()
    card = make_card(
        found, adopted=False, licences={"terse": "CC0"}, controls={"terse": 1.0}, seconds=3600.0
    )
    text = markdown(card)
    assert "| terse | CC0 | 0, 1 |" in text and "| 1.00 |" in text
    assert "| instruct | not stated | 0, 1 |" in text and "| not run |" in text
    assert "3,600 s of computing" in text
    assert "Stage 1 was not stable when it ended on terse seed 1" in text
    assert "smallest matrices agrees with it at Jaccard" in text
    assert card.digest == found.digest and found.digest[:12] in text
    of_chance = next(a for a in card.agreements if a.kind == "datasets")
    assert f"{of_chance.chance_within_types_jaccard:.2f} (" in text


def test_a_card_without_its_search_claims_nothing() -> None:
    card = make_card(ranking(), adopted=True, licences={}, controls={}, seconds=None)
    text = markdown(card)
    assert "Cost of the search: not known here" in text
    assert "made elsewhere, and nothing here proves how" in text


def test_a_card_says_what_share_of_the_model_its_layers_hold_where_that_is_not_nearly_all() -> None:
    def said(share: float) -> str:
        covered = Coverage(share=share, outside="experts.up (12,288)")
        found = ranking().model_copy(update={"coverage": covered})
        return markdown(make_card(found, adopted=False, licences={}, controls={}, seconds=1))

    assert "the layers hold 31.0% of the model's matrix weights" in said(0.31)
    assert "experts.up (12,288)" in said(0.31)
    assert "matrix weights" not in said(0.96)


def test_the_largest_card_fits_into_mlflows_description() -> None:
    datasets = tuple(f"a-dataset-with-quite-a-long-name-{i}" for i in range(5))
    found = make_data(datasets=datasets, blocks=32).ranking
    assert len(markdown(make_card(found, adopted=True, licences={}, controls={}, seconds=1))) < 5000
