"""The report as one self-contained HTML page without scripts or requests."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from ila_core.models.layers import Layer
from ila_core.report import figures, tables
from ila_core.report.benchmark_tables import benchmarks_table
from ila_core.report.comparison import Payload
from ila_core.report.data import ReportData
from ila_core.report.headline import headline
from ila_core.search.mask_curve import MaskCurves
from ila_core.search.ranking import Ranking, kept_count, order

_KINDS = {
    "datasets": "Between datasets",
    "seeds": "Between search seeds of one dataset",
    "size": "Beside the trivial rule: freeze the smallest matrices",
}


def build_page(data: ReportData) -> str:
    """Build the report as HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cells"] = _cells
    profile = data.profile
    return environment.get_template("page.html").render(
        data=data,
        profile=profile,
        headline=headline(data),
        n_layers=len(data.ranking.layers),
        kept=kept_count(profile.search.keep, len(data.ranking.layers)),
        heat_maps=[x.inline() for x in heat_maps(data.ranking, profile.search.keep)],
        ranking=tables.ranking_table(data.ranking, profile.search.keep),
        agreements=[
            (title, tables.agreement_table([x for x in data.agreements if x.kind == kind]))
            for kind, title in _KINDS.items()
        ],
        within_types=tables.within_types_table(data.within_types),
        search=tables.search_table(data.stage1, _ranking_scores(data)),
        masks=_masks(data),
        scorers=tables.scorers_table(data.ranking, profile.search, data.scores, data.masks),
        nats=tables.nats_table(data.ranking, data.scores),
        **_curves(data),
        forest=_forest(data),
        arms=tables.arms_table(data.arms, data.selections),
        controls=tables.controls_table(data.arms, data.selections),
        benchmarks=benchmarks_table(data.benchmarks, profile.evaluate),
        prepared=tables.prepared_table(data.prepared),
        keys=tables.flat_table(data.keys, name="step", value="key"),
        provenance=tables.flat_table(data.provenance, name="what", value="value"),
        profile_yaml=yaml.safe_dump(profile.model_dump(mode="json"), sort_keys=False),
    )


def heat_maps(ranking: Ranking, keep: float) -> list[figures.Drawing]:
    """Draw one heat map per dataset, of the scores averaged over search seeds (Fig. 1)."""
    return [
        heat_map_of(ranking.layers, ranking.scores(dataset), keep, title=dataset)
        for dataset in ranking.datasets
    ]


def heat_map_of(
    layers: Sequence[Layer], scores: Mapping[str, float], keep: float, *, title: str
) -> figures.Drawing:
    """Draw scores by block and layer type; a cross marks a layer frozen at `keep`."""
    grid = tables.layers_grid(layers, scores)
    names = set(order(scores, layers)[kept_count(keep, len(layers)) :])
    frozen = grid.notna() & False
    for layer in layers:
        column = tables.OUTSIDE if layer.block is None else layer.block
        frozen.at[layer.type, column] = layer.name in names
    return figures.heat_map(grid, frozen, title=title)


def _curves(data: ReportData) -> dict[str, object]:
    losses = tables.loss_curves(data.stage1)
    gates = [s for s in _ranking_scores(data) if "history" in s]
    ends = {
        (
            s["dataset"],
            f"{s['dataset']} seed {s['seed']}",
        ): f"{s['steps']} of {s['planned_steps']}, "
        + (f"{s['stable_by']} stable" if s["stable"] else "not stable")
        for s in data.stage1
    }
    pictures = []
    for dataset in data.ranking.datasets:
        stops = {column: end for (d, column), end in ends.items() if d == dataset}
        pictures.append(figures.loss_curve(losses[list(stops)], stops, title=dataset).inline())
    found = {"loss_pictures": pictures, "losses": losses.reset_index(), "score_pictures": []}
    if gates:
        scores = tables.score_curves(data.ranking, gates)
        found["scores"] = scores.reset_index()
        found["score_pictures"] = [
            figures.score_curve(scores.loc[[dataset]].droplevel("dataset"), title=dataset).inline()
            for dataset in data.ranking.datasets
        ]
    return found


def _ranking_scores(data: ReportData) -> list[Payload]:
    """Return the scores of the ranking's own scorer."""
    return [s for s in data.scores if s["scorer"] == data.profile.search.scorer]


def _masks(data: ReportData) -> list[str]:
    """Draw the mask curves of every dataset, by closed layers and by closed weights."""
    return [
        figures.mask_curve_figure(
            MaskCurves.model_validate(found[by]), title=found["dataset"]
        ).inline()
        for found in data.masks
        for by in ("count", "share")
    ]


def _forest(data: ReportData) -> str:
    evaluate = data.profile.evaluate
    if len(data.profile.finetune.arms) == 1:
        return ""  # nothing to compare
    return figures.forest_plot(
        data.arms, against=evaluate.against, confidence=evaluate.confidence
    ).inline()


def _cells(frame: pd.DataFrame) -> list[list[tuple[str, str]]]:
    """Return rows of (text, CSS class); numbers have a class of their own for alignment."""
    classes = [
        "number" if is_numeric_dtype(t) and not is_bool_dtype(t) else "text" for t in frame.dtypes
    ]
    rows = tables.formatted(frame).to_numpy().tolist()
    return [list(zip(row, classes, strict=True)) for row in rows]
