"""One look for every figure: light and dark, safe for colour-blind readers, with alternative text.

Call `use_style` once, draw on what `canvas` returns, hand the figure to
`show`. Colours are named by ``COLORS``. A figure is drawn once, in its light colours;
the dark version is the same drawing with each named colour exchanged for its partner, so the
two can never show different data. Nothing here computes what it draws.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from pandas import DataFrame

# (light, dark) partners. Every line colour stands out from its page by 3:1 or more, and any two
# stay apart in deuteranopia, protanopia and tritanopia: tests/test_figures.py holds both.
PAIRS = {
    "blue": ("#1326c8", "#4a90ff"),
    "orange": ("#e8401b", "#e07a3a"),
    "green": ("#2a603e", "#2ff0b0"),
    "purple": ("#bd5397", "#c890c0"),
    "lime": ("#51a13b", "#f0f060"),
    "ink": ("#1f2328", "#e6e8eb"),
    "muted": ("#6b7075", "#9aa1a9"),
    "grid": ("#dde1e6", "#343a42"),
    "paper": ("#fffffe", "#14181e"),
}
COLORS = {name: light for name, (light, _) in PAIRS.items()}
CYCLE = ("blue", "orange", "green", "purple", "lime")
LINES = ("-", "--", "-.", ":", (0, (8, 2)))
MARKERS = ("o", "s", "D", "^", "v")


@dataclass(frozen=True)
class Look:
    """How one thing is drawn wherever it is drawn."""

    color: str  # a name in ``COLORS``
    marker: str
    line: str | tuple  # matplotlib's line style

    @property
    def marks(self) -> dict:
        """Colour, marker and line style as matplotlib's functions take them."""
        return {"color": COLORS[self.color], "marker": self.marker, "linestyle": self.line}


_LOOKS = tuple(map(Look, CYCLE, MARKERS, LINES))
SETTINGS = dict(  # of a run, (learning rate, batch size): one look each in the whole book
    zip(((0.05, 20), (0.1, 20), (0.2, 20), (0.1, 8), (0.1, 32)), _LOOKS, strict=True)
)
CHAIN = dict(zip(("A", "B", "C", "C_prime", "D"), _LOOKS, strict=True))  # terms of Eq. (28), (N.4)
SAMPLES = {  # that a network was measured on
    "train": Look("ink", "o", "-"),
    "test": Look("orange", "s", "--"),
    "misclassified": Look("purple", "^", ":"),
}
NUMBER = r"\d+[a-z]?\.\d+"  # of a figure: chapter 1b, say, and place
WIDTH = 504.0  # points, the width of a page's column of text
POINTS_PER_INCH = 72.0

STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": COLORS["muted"],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": COLORS["ink"],
    "axes.labelsize": 10,
    "axes.prop_cycle": cycler(color=[COLORS[name] for name in CYCLE]) + cycler(linestyle=LINES),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": COLORS["ink"],
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "grid.color": COLORS["grid"],
    "grid.linewidth": 0.6,
    "image.cmap": "cividis",
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.labelcolor": COLORS["ink"],
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "savefig.facecolor": "none",
    "scatter.edgecolors": "none",
    "svg.fonttype": "path",
    "svg.hashsalt": "flatlib",
    "text.color": COLORS["ink"],
    "xtick.color": COLORS["muted"],
    "xtick.labelcolor": COLORS["ink"],
    "xtick.labelsize": 9,
    "ytick.color": COLORS["muted"],
    "ytick.labelcolor": COLORS["ink"],
    "ytick.labelsize": 9,
}

# The site's theme marks a dark page on <html>, JupyterLab on <body>; elsewhere light is shown.
# On a dark page the theme puts outputs on a light ground, which the dark drawing must not stand on.
SWITCH = """<style>
html[data-theme="dark"] .flatlib-figure .only-light,
body[data-jp-theme-light="false"] .flatlib-figure .only-light { display: none !important; }
html[data-theme="dark"] .flatlib-figure .only-dark,
body[data-jp-theme-light="false"] .flatlib-figure .only-dark { display: block !important; }
.flatlib-figure { margin: 1em 0; padding: 0; }
.flatlib-figure img { max-width: 100%; height: auto; }
html .bd-content div.cell_output .text_html:has(.flatlib-figure),
html .bd-content div.cell_output .flatlib-figure img {
  background: transparent !important; padding: 0 !important; color: inherit !important; }
figure.flatlib-figure figcaption {
  font: inherit; font-size: 0.9em; color: var(--pst-color-text-base, inherit); text-align: left;
}
.flatlib-figure .figure-stamp {
  font-size: 0.9em; color: var(--pst-color-text-muted, var(--jp-ui-font-color2, inherit));
}
</style>"""


def use_style() -> None:
    """Set matplotlib's defaults to the book's style, for the rest of the process.

    >>> use_style()
    >>> matplotlib.rcParams["image.cmap"]
    'cividis'
    """
    matplotlib.rcParams.update(STYLE)


def canvas(rows: int = 1, columns: int = 1, height: float = 220.0, width: float = WIDTH, **grid):
    """A figure and its axes, laid out so that labels never overlap.

    Args:
        rows: rows of axes.
        columns: columns of axes.
        height: height of the whole figure in points.
        width: width of the whole figure in points.
        **grid: passed to matplotlib's ``Figure.subplots`` (``sharey=True``, ...).

    Returns:
        ``(figure, axes)``: one axes for a single cell, else an array of them.

    Raises:
        ValueError: a height or width that is not positive.

    >>> figure, axes = canvas(1, 2, height=144)
    >>> figure.get_size_inches().tolist(), axes.shape
    ([7.0, 2.0], (2,))
    """
    if height <= 0 or width <= 0:
        raise ValueError(f"height and width are points above 0, got {height} and {width}")
    size = (width / POINTS_PER_INCH, height / POINTS_PER_INCH)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, **grid)


def to_svg(figure: Figure, theme: str = "light") -> str:
    """The figure as SVG text, in the colours of a theme.

    Args:
        figure: a figure drawn with ``COLORS``.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        SVG text, the same for the same drawing.

    Raises:
        ValueError: another theme.

    >>> figure, ax = canvas()
    >>> _ = ax.plot([0, 1], color=COLORS["blue"])
    >>> PAIRS["blue"][1] in to_svg(figure, "dark")
    True
    """
    if theme not in ("light", "dark"):
        raise ValueError(f"theme must be 'light' or 'dark', got {theme!r}")
    buffer, canvas_before = io.StringIO(), figure.canvas
    with matplotlib.rc_context(STYLE):
        # `Figure.savefig` would draw it twice, the first time only to lay it out.
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    figure.set_canvas(canvas_before)
    return buffer.getvalue() if theme == "light" else _darkened(buffer.getvalue())


def _darkened(svg: str) -> str:
    """A light drawing with each named colour exchanged for its partner."""
    for light, dark in PAIRS.values():
        svg = svg.replace(light, dark)
    return svg


def to_html(
    figure: Figure,
    alt: str,
    stamp: str = "",
    caption: str = "",
    number: str = "",
    views: Mapping[str, str] | None = None,
) -> str:
    """The figure as a piece of a page: both themes, alternative text, number, caption, provenance.

    Args:
        figure: a figure drawn with ``COLORS``.
        alt: what this figure shows, for readers who cannot see it.
        stamp: where it comes from (scale, seed, data), shown small after the caption.
        caption: what is drawn and what one sees, in plain text that stands alone.
        number: chapter and place in the chapter, such as ``"4.2"``, shown before the caption.
        views: for each quantity that is drawn, by its words, its address in the page of the
            archive. The book makes links of them; elsewhere they are not shown.

    Returns:
        A ``<figure>`` element that needs no other file.

    Raises:
        ValueError: an empty ``alt``; a number of another form; a number without a caption.

    >>> figure, ax = canvas()
    >>> page = to_html(figure, "a straight line", caption="One line.", number="4.2")
    >>> page[page.index("<figcaption>") :]
    '<figcaption><b>Figure 4.2.</b> One line.</figcaption></figure>'
    """
    if not alt.strip():
        raise ValueError("alt is empty: say in a sentence what the figure shows")
    label = html.escape(" ".join(alt.split()), quote=True)
    images, light = [], to_svg(figure)
    drawings = {"light": (light, ""), "dark": (_darkened(light), ' style="display: none"')}
    for theme, (svg, hidden) in drawings.items():
        data = base64.b64encode(svg.encode()).decode()
        source = f"data:image/svg+xml;base64,{data}"
        images.append(f'<img class="only-{theme}"{hidden} alt="{label}" src="{source}">')
    # The theme hides a caption that is the sibling of an image of the other theme: hence the <div>.
    width = POINTS_PER_INCH * figure.get_size_inches()[0]
    drawing = f'<div class="drawing" style="--drawn: {width:.0f}pt">{"".join(images)}</div>'
    below = _figcaption(stamp, caption, number)
    carried = html.escape(json.dumps(dict(views or {}), ensure_ascii=False), quote=True)
    data = f' data-views="{carried}"' if views else ""
    return f'{SWITCH}<figure class="flatlib-figure"{data}>{drawing}{below}</figure>'


def _figcaption(stamp: str, caption: str, number: str) -> str:
    """What stands below the drawing; nothing if there is nothing to say."""
    if number and not re.fullmatch(NUMBER, number):
        raise ValueError(f"number is a chapter's and a place's, such as '4.2': got {number!r}")
    if number and not caption.strip():
        raise ValueError(f"Figure {number} has no caption: say what is drawn and what one sees")
    parts = (
        number and f"<b>Figure {number}.</b>",
        html.escape(" ".join(caption.split())),
        stamp and f'<span class="figure-stamp">{html.escape(stamp)}</span>',
    )
    text = " ".join(filter(None, parts))
    return text and f"<figcaption>{text}</figcaption>"


def show(
    figure: Figure,
    alt: str,
    stamp: str = "",
    caption: str = "",
    number: str = "",
    views: Mapping[str, str] | None = None,
) -> None:
    """Show a figure in a notebook, and in the page made from it.

    Args:
        figure: a figure from `canvas`.
        alt: what this figure shows, for readers who cannot see it; write numbers with the
            program that computed them.
        stamp: where it comes from (scale, seed, data), shown small after the caption.
        caption: what is drawn, for which networks, and what one sees: plain text that stands
            alone, without formulas.
        number: chapter and place in the chapter, such as ``"4.2"``, by which the text refers to
            the figure.
        views: see `to_html`.

    Raises:
        ValueError: an empty ``alt``; a number of another form; a number without a caption.
    """
    from IPython.display import display  # a notebook has it; drawing alone does not need it

    page = to_html(figure, alt, stamp, caption, number, views)
    display({"text/html": page, "text/plain": f"figure: {alt}"}, raw=True)


def both_sides(ax: Axes, left, right, label: str = "", color: str = "blue", **marks) -> None:
    """An inequality as points, left side against right side, on logarithmic axes.

    A point on the diagonal has both sides equal; none may lie above it.

    Args:
        ax: axes to draw on; calls on the same axes add up.
        left: ``(cases,)`` left sides, above 0.
        right: ``(cases,)`` right sides, above 0.
        label: entry of the legend.
        color: a name in ``COLORS``.
        **marks: passed to matplotlib's ``scatter``.
    """
    left, right = np.asarray(left, dtype=float), np.asarray(right, dtype=float)
    ax.set(xscale="log", yscale="log", xlabel="right-hand side", ylabel="left-hand side")
    ax.scatter(right, left, color=COLORS[color], label=label or None, **{"s": 14, **marks})
    points = np.concatenate([mark.get_offsets() for mark in ax.collections])
    limits = points.min() / 1.5, points.max() * 1.5
    ax.set(xlim=limits, ylim=limits, aspect="equal")
    if not any(line.get_gid() == "diagonal" for line in ax.lines):
        ax.axline((1, 1), (10, 10), gid="diagonal", color=COLORS["ink"], lw=1, linestyle="-")


def ellipse(ax: Axes, matrix, label: str = "", color: str = "blue", **line) -> None:
    """The image of the unit circle under a 2 x 2 matrix, its semi-axes the singular values.

    Args:
        ax: axes to draw on, made equal in both directions.
        matrix: ``(2, 2)``.
        label: entry of the legend.
        color: a name in ``COLORS``.
        **line: passed to matplotlib's ``plot``.

    Raises:
        ValueError: a matrix of another shape.
    """
    matrix = np.asarray(matrix, dtype=float)
    if matrix.shape != (2, 2):
        raise ValueError(f"an ellipse is the image under a 2 x 2 matrix, got {matrix.shape}")
    angle = np.linspace(0.0, 2.0 * np.pi, 361)
    points = matrix @ np.stack([np.cos(angle), np.sin(angle)])
    ax.plot(*points, color=COLORS[color], label=label or None, **line)
    ax.set_aspect("equal", adjustable="datalim")


def ladder(ax: Axes, rungs: Mapping[str, Mapping[str, float]]) -> None:
    """The quantities of a chain of inequalities, one row a network, on a logarithmic axis.

    Args:
        ax: axes to draw on.
        rungs: for each network's name its quantities, all above 0, by their names in ``CHAIN``.
    """
    for row, quantities in enumerate(rungs.values()):
        ax.plot(
            list(quantities.values()),
            [row] * len(quantities),
            color=COLORS["grid"],
            linestyle="-",
            linewidth=2,
            zorder=1,
        )
        for name, value in quantities.items():
            ax.scatter(
                [value],
                [row],
                s=42,
                marker=CHAIN[name].marker,
                zorder=2,
                color=COLORS[CHAIN[name].color],
                label=name if row == 0 else None,
            )
    ax.set(xscale="log", yticks=range(len(rungs)), yticklabels=list(rungs))
    ax.set_ylim(len(rungs) - 0.5, -0.5)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5)


def panels(
    runs: Mapping[str, DataFrame],
    columns: Mapping[str, str],
    logarithmic: Sequence[str] = (),
    height: float = 300.0,
) -> Figure:
    """Tables of measurements through training: one panel a quantity, one line a run.

    Args:
        runs: for each run's name its data frame, with a column ``step`` and those in
            ``columns``.
        columns: title of the panel for each column, in reading order.
        logarithmic: columns drawn on a logarithmic axis.
        height: height of the figure in points.

    Returns:
        The figure, three panels a row, with a legend below if there are several runs.

    Raises:
        ValueError: a column that a table lacks.
    """
    for name, table in runs.items():
        missing = [column for column in ("step", *columns) if column not in table.columns]
        if missing:
            raise ValueError(
                f"the table of {name!r} has no column {missing}; it has {list(table.columns)}"
            )
    figure, axes = canvas(-(-len(columns) // 3), 3, height=height, squeeze=False)
    for ax, (column, title) in zip(axes.flat, columns.items(), strict=False):
        for name, table in runs.items():
            ax.plot(table["step"], table[column], label=name)
        ax.set(title=title, xlabel="step", yscale="log" if column in logarithmic else "linear")
        ax.locator_params(axis="x", nbins=4)
    for ax in axes.flat[len(columns) :]:
        ax.remove()
    if len(runs) > 1:
        handles, names = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(runs))
    return figure
