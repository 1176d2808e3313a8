"""Figures, placed inside the page or saved as files; equal data give equal bytes."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.optimize import isotonic_regression

from ila_core.config import BASE
from ila_core.report.comparison import ArmResult
from ila_core.report.tables import OUTSIDE
from ila_core.search.mask_curve import MaskCurve, MaskCurves

# As they are in a file, on white; in the page `Drawing` turns them into the page's own colours.
INK, FAINT, PAPER = "#010203", "#9a9a9b", "#fffffe"
# Okabe and Ito's palette, told apart by colour-blind readers; lines differ in their dashes as well.
# The page has a lighter shade of each for dark mode.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", INK)
DASHES = ("-", "--", "-.", ":")
WIDTH_IN = 4.6


class Drawing(NamedTuple):
    """A figure with a file name and a label that describes it for screen readers."""

    figure: Figure
    name: str
    label: str

    def inline(self) -> str:
        """Return an <svg> element whose text stays text and has the page's colour.

        Its ids are unique on the page, and `label` is its name for screen readers.
        """
        svg = self._svg()
        svg = svg.replace(INK, "currentColor").replace(FAINT, "var(--faint)")
        svg = svg.replace(PAPER, "var(--paper)")
        for i, colour in enumerate(COLOURS[:-1]):
            svg = svg.replace(colour, f"var(--line-{i})")
        prefix = re.sub(r"\W+", "-", self.name)
        svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
        width, height = (72 * inches for inches in self.figure.get_size_inches())
        label = escape(self.label)
        opening = f'<svg role="img" aria-label="{label}" viewBox="0 0 {width:g} {height:g}">'
        return re.sub(r"<svg\b[^>]*>", lambda _: opening, svg, count=1)

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write `<name>.svg` and `<name>.png` on white; spaces and signs become dashes."""
        folder.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^\w.-]+", "-", self.name).strip("-")
        svg, png = folder / f"{name}.svg", folder / f"{name}.png"
        svg.write_text(self._svg(transparent=False), encoding="utf-8")
        self.figure.savefig(png, dpi=160, metadata={"Software": None})
        return svg, png

    def _svg(self, *, transparent: bool = True) -> str:
        for text in self.figure.findobj(matplotlib.text.Text):
            text.set_parse_math(False)  # a dataset may be called "$1"
            if text.get_color() == "black":
                text.set_color(INK)
        settings: dict[Any, Any] = {
            "svg.fonttype": "none",
            "svg.hashsalt": self.name,
            "font.family": "sans-serif",
        }
        with io.StringIO() as out, matplotlib.rc_context(settings):
            metadata = dict.fromkeys(["Date", "Creator", "Format", "Type"])
            self.figure.savefig(out, format="svg", transparent=transparent, metadata=metadata)
            svg = out.getvalue()
        return svg[svg.index("<svg") :]


def heat_map(grid: pd.DataFrame, frozen: pd.DataFrame, *, title: str) -> Drawing:
    """Draw scores by block and layer type (Fig. 1): darker is more important, a cross is frozen.

    Args:
        grid: scores from `layers_grid`; layers outside the blocks have a cell below the others.
        frozen: the same shape as `grid`, true for frozen layers.
    """
    blocks = [c for c in grid.columns if c != OUTSIDE]
    figure, axes = _figure(0.75 + 0.24 * len(grid))
    cells: list[Rectangle] = []
    values: list[float] = []
    crosses: list[list[tuple[float, float]]] = []
    ys: list[float] = []
    y = 0.0
    for kind, row in zip(grid.index, grid.to_dict("records"), strict=True):
        lone = OUTSIDE in grid.columns and all(row[b] != row[b] for b in blocks)  # NaN
        y += 0.35 if lone else 0.0
        ys.append(y + 0.5)
        for x, column in enumerate([OUTSIDE] if lone else blocks):
            if row[column] == row[column]:  # models may lack a type in some blocks
                cells.append(Rectangle((x, y), 1, 1))
                values.append(row[column])
                if frozen.at[kind, column]:
                    left, right, top, bottom = x + 0.25, x + 0.75, y + 0.25, y + 0.75
                    crosses += [[(left, top), (right, bottom)], [(left, bottom), (right, top)]]
        y += 1
    shaded = PatchCollection(cells, cmap="YlGnBu", edgecolor=FAINT, linewidth=0.4)
    shaded.set_array(values)
    # One extreme layer (often lm_head) would otherwise leave all others one shade.
    shaded.set_clim(*(float(np.quantile(values, q)) for q in (0.02, 0.98)))
    axes.add_collection(shaded)
    axes.add_collection(LineCollection(crosses, colors="#1b1b1b", linewidths=0.9))
    axes.set(xlim=(0, len(blocks) or 1), ylim=(y, 0), xlabel="block", title=title)
    axes.set_yticks(ys, [str(kind) for kind in grid.index])
    step = -(-len(blocks) // 12) if blocks else 1
    axes.set_xticks([i + 0.5 for i in range(0, len(blocks), step)], map(str, blocks[::step]))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(shaded, ax=axes, extend="both", aspect=14, pad=0.02, shrink=0.9)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=7)
    bar.set_label("score", fontsize=8)
    n_frozen = int(frozen.to_numpy(dtype=bool).sum())
    label = (
        f"Score of every layer on {title}: block by layer type; {n_frozen} of {len(cells)} frozen"
    )
    return Drawing(figure, f"heat-{title}", label)


def loss_curve(curves: pd.DataFrame, stops: Mapping[str, str], *, title: str) -> Drawing:
    """Draw the stage-1 loss, in nats per token, by step.

    Args:
        curves: from `loss_curves`, one column per seed.
        stops: column to the text at the end of its curve.
    """
    figure, axes = _figure(2.5)
    for i, name in enumerate(curves.columns):
        curve = curves[name].dropna()
        colour, dashes = COLOURS[i % 7], DASHES[i % 4]
        label = f"{name}: {stops[name]}"
        axes.plot(curve.index, curve, dashes, color=colour, linewidth=1.4, label=label)
        axes.plot(curve.index[-1], curve.iloc[-1], "o", markersize=4.5, color=colour)
        axes.axvline(curve.index[-1], ymax=0.7, color=FAINT, linewidth=0.6)
    axes.set(xlabel="optimizer step", ylabel="loss, nats per token", title=title, xlim=(0, None))
    axes.legend(frameon=False, fontsize=7.5, loc="upper right")
    return Drawing(
        figure, f"loss-{title}", f"Stage-1 loss on {title} by step, up to where it stopped"
    )


def score_curve(curves: pd.DataFrame, *, title: str) -> Drawing:
    """Draw stage-2 scores by gate step, averaged over the layers of each type."""
    figure, axes = _figure(2.5)
    for i, kind in enumerate(curves.columns):
        colour, dashes = COLOURS[i % len(COLOURS)], DASHES[i % 4]
        axes.plot(curves.index, curves[kind], dashes, color=colour, linewidth=1.4)
    low, high = axes.get_ylim()
    ends = {kind: float(curves[kind].iloc[-1]) for kind in curves.columns}
    for kind, y in _apart(ends, (high - low) / 13).items():
        colour = COLOURS[list(curves.columns).index(kind) % len(COLOURS)]
        axes.annotate(
            str(kind),
            (1, y),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color=colour,
        )
    axes.set(xlabel="gate step", ylabel="mean score", title=title, xlim=(0, None))
    return Drawing(
        figure, f"score-{title}", f"Mean score of each layer type on {title} by gate step"
    )


def mask_curve_figure(curves: MaskCurves, *, title: str) -> Drawing:
    """Draw held-out loss as adapters are closed in each scorer's order, beside random orders.

    Args:
        curves: curves over closed layers or closed weights. The band spans the lowest to the
            highest loss of the random orders; the line inside is their mean.
    """
    entries = 1 + len(curves.orders) + len(curves.reversed) + len(curves.within_types)
    figure, axes = _figure(2.7 + 0.17 * -(-entries // 2))
    x = [100 * f for f in curves.random[0].fractions]
    lowest, means, highest = _spread(curves.random)
    axes.fill_between(x, lowest, highest, color=FAINT, alpha=0.35, linewidth=0)
    label = f"random ({len(curves.random)} orders)"
    axes.plot(x, means, color=FAINT, linewidth=1.4, label=label)
    for i, (name, curve) in enumerate(curves.orders.items()):
        colour = COLOURS[i % 7]
        axes.plot(x, curve.losses, DASHES[i % 3], color=colour, linewidth=1.4, label=name)
        if name in curves.within_types:
            _, means, _ = _spread(curves.within_types[name])
            label = f"{name}: random within types"
            axes.plot(x, means, "x", markersize=4, color=colour, label=label)
        if name in curves.reversed:
            losses, label = curves.reversed[name].losses, f"{name} reversed"
            axes.plot(x, losses, DASHES[3], color=colour, linewidth=1.4, label=label)
    n_layers = curves.random[0].points[-1].count
    of = {"count": f"{n_layers} layers", "share": "the layers' weights"}[curves.by]
    axes.set(xlabel=f"closed, % of {of}", ylabel="held-out loss, nats per token")
    axes.set(title=title, xlim=(0, 100))
    figure.legend(frameon=False, fontsize=7, loc="outside lower center", ncols=2)
    label = (
        f"Held-out loss on {title} with more and more of {of} closed, least important first, "
        f"beside random orders: {curves.random[0].losses[0]:.3f} with none closed, "
        f"{curves.random[0].losses[-1]:.3f} with all"
    )
    return Drawing(figure, f"mask-{curves.by}-{title}", label)


def forest_plot(arms: Sequence[ArmResult], *, against: str, confidence: float) -> Drawing:
    """Draw each arm's difference to `against`, in nats per token, with its interval."""
    # Without the base: it is so far off that all others would fall on one point.
    rows = [(x.arm, x.versus) for x in arms if x.versus is not None and x.policy != BASE]
    figure, axes = _figure(0.8 + 0.32 * len(rows))
    for y, (_, versus) in enumerate(rows):
        colour = {"better": COLOURS[0], "worse": COLOURS[1]}.get(versus.verdict, INK)
        axes.plot([versus.low, versus.high], [y, y], color=colour, linewidth=1.6)
        axes.plot(versus.difference, y, "o", color=colour, markersize=5)
        axes.annotate(
            f"{versus.verdict} ({versus.difference:+.4f})",
            (versus.difference, y),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=7.5,
            color=colour,
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1},
        )
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.margins(x=0.25)
    axes.set_yticks(range(len(rows)), [arm for arm, _ in rows])
    axes.set(ylim=(len(rows) - 0.5, -0.8), xlabel=f"held-out loss minus {against} (nats per token)")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    label = f"Difference of each arm to {against} with its {100 * confidence:g} % interval"
    return Drawing(figure, "forest", label)


def _spread(curves: Sequence[MaskCurve]) -> tuple[list[float], list[float], list[float]]:
    """Return the lowest, mean and highest loss at every fraction."""
    drawn = list(zip(*(curve.losses for curve in curves), strict=True))
    return [min(x) for x in drawn], [fmean(x) for x in drawn], [max(x) for x in drawn]


def _figure(height_in: float) -> tuple[Figure, Axes]:
    # Not pyplot: it keeps figures in a global registry and picks a backend.
    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(FAINT)
    axes.tick_params(labelsize=8, color=FAINT)
    axes.xaxis.label.set_fontsize(8.5)
    axes.yaxis.label.set_fontsize(8.5)
    axes.title.set_fontsize(10)
    return figure, axes


def _apart(ends: Mapping[str, float], gap: float) -> dict[str, float]:
    """Return label heights nearest to the lines' ends, in their order and at least `gap` apart.

    They come from an isotonic regression of the heights minus rank times `gap`.
    """
    kinds = sorted(ends, key=lambda kind: ends[kind])
    heights = isotonic_regression([ends[kind] - i * gap for i, kind in enumerate(kinds)]).x
    return {kind: float(heights[i]) + i * gap for i, kind in enumerate(kinds)}


def jaccard_matrix(
    names: Sequence[str], values: Mapping[tuple[str, str], float], *, name: str, title: str
) -> Drawing:
    """Draw pairwise Jaccard indices as a lower triangle (Figs. 3 and 4)."""
    n = len(names)
    figure, axes = _figure(0.9 + 0.36 * n)
    cells = [[math.nan] * n for _ in names]
    for row in range(n):
        for column in range(row):
            value = values[names[column], names[row]]
            cells[row][column] = value
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8)
    # Light shades only: the numbers lie on top.
    axes.imshow(cells, cmap="Blues", vmin=0.4, vmax=1.6, aspect="auto")
    axes.set_xticks(range(n), names)
    axes.set_yticks(range(n), names)
    axes.set(title=title)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return Drawing(figure, name, f"{title}: Jaccard of the kept layers, pair by pair")
