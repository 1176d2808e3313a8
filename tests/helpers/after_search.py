"""What follows a search, on any model's layers: its ranking, card and page, exports, verify."""

from __future__ import annotations

from pathlib import Path

from ila_core.config import ArmConfig, LoraMethod, LoraSettings
from ila_core.export.base import Export, Training
from ila_core.export.formats import EXPORTERS, export
from ila_core.export.trained_adapter import read_adapter
from ila_core.export.verify import check_configuration
from ila_core.models.layers import Examined, fingerprint
from ila_core.report.headline import headline
from ila_core.report.page import build_page
from ila_core.search.agreement import agreements, intersection
from ila_core.search.ranking import Coverage, LayerScores, Ranking
from ila_core.search.ranking_card import make_card, markdown
from ila_core.selection.select import select
from ila_core.selection.selection import UNCOVERED, Selection
from tests.helpers.made_up import make_data

DATASET = "terse"


def ranking_of(found: Examined, scores: dict[str, float]) -> Ranking:
    return Ranking(
        base_model="tiny", model={}, architecture=fingerprint(found.layers), key="3f9c21a07b4e",
        scorer="ila", keep=0.75, unsure={DATASET: None}, settings={}, versions={},
        score_keys={DATASET: {"0": "x"}}, stable={DATASET: {"0": True}}, data_keys={DATASET: "d"},
        layers=tuple(
            LayerScores(**x.model_dump(), scores={DATASET: {"0": scores[x.name]}})
            for x in found.layers
        ),
        coverage=Coverage(share=found.share, outside=found.outside),
    )  # fmt: skip


def selection_of(ranking: Ranking, lora: LoraSettings) -> Selection:
    arm = ArmConfig(name="ila", policy="ila", source=DATASET)
    search = make_data((DATASET,), (0,), 2).profile.search
    return select(arm, ranking, search, LoraMethod(**lora.model_dump(), lr=1, steps=1), None)


def check_exports(
    ranking: Ranking, selection: Selection, lora: LoraSettings, adapter: Path
) -> None:
    """The selection goes out and is read back; the adapter that was trained holds it."""
    experts = any(layer.holds_experts for layer in ranking.layers)
    formats: list[tuple[str, Training]] = [("peft", "lora"), ("trl", "lora"), ("trl", "full")]
    for to, method in [*formats, *([] if experts else [("axolotl", "lora")])]:
        wanted = Export(ranking, selection, method, lora, base="acme/tiny")
        text = next(iter(export(to, wanted).files.values()))
        found = EXPORTERS[to].selected(text, ranking.layers, ())
        assert not check_configuration(to, found, ranking.layers, selection.train).breaches
    names = [layer.name for layer in ranking.layers]
    trained = read_adapter(adapter, names).check("adapter", ranking.layers, selection.train)
    assert not trained.breaches


def check_page(ranking: Ranking, selection: Selection) -> None:
    """Card and report show every layer, and say what the layers do not hold."""
    data = make_data((DATASET,), (0,), 2)
    scores = ranking.scores(DATASET)
    own = data.scores[0] | {"scores": scores, "history": [[0, scores], [1, scores]]}
    data = data.model_copy(
        update={
            "ranking": ranking,
            "selections": dict.fromkeys(data.selections, selection),
            "agreements": agreements(ranking, 0.75),
            "intersection": intersection(ranking, 0.25),
            "scores": (own,),
            "masks": (),
        }
    )
    page = build_page(data)
    assert all(layer.name in page for layer in ranking.layers)
    card = markdown(make_card(ranking, adopted=False, licences={}, controls={}, seconds=1.0))
    assert ranking.coverage is not None
    uncovered = ranking.coverage.said
    assert ("matrix weights" in card) == (uncovered is not None)
    assert any("matrix weights" in x for x in headline(data)) == (uncovered is not None)
    assert selection.details.get(UNCOVERED) == uncovered
