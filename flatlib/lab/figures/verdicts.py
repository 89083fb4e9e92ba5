"""Pictures of verdicts: a dot and an interval a claim."""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath
from matplotlib.ticker import NullLocator

from flatlib.lab import claims, verdicts
from flatlib.lab.claims import Claim
from flatlib.lab.sentences import SYMBOLS, WHEN, claim_words, effect_words, reason_words
from flatlib.lab.verdicts import Verdict

from .style import COLORS, PAIRS, POINTS_PER_INCH, STYLE, canvas
from .views import addresses, views_of_verdicts

MARKS = {  # word: colour and shape
    verdicts.HELD: ("blue", "o"),
    verdicts.AGAINST: ("orange", "X"),
    verdicts.NO_DIFFERENCE: ("green", "s"),
    verdicts.NOT_DECIDED: ("muted", "D"),
}
ROW, PLOT, NAME = 13.0, 350.0, 8.5  # points: a line, the plot's width, a name's size
ABOVE, BELOW, BESIDE = 74.0, 44.0, 16.0  # points around the plot
AXIS = "change in margins; to the right as the paper says"
OFTEN = 10  # times that a style is written before it becomes a class
TICKS = (-100, -10, -1, 0, 1, 10, 100)


def in_margins(verdict: Verdict) -> tuple[float, float, float]:
    """Value and interval in margins, positive where they go the paper's way.

    Of a claim that nothing moves, the sign is that of the change.
    """
    sign = verdict.claim.direction or 1
    value, low, high = (
        sign * number / verdict.margin for number in (verdict.value, verdict.low, verdict.high)
    )
    return value, min(low, high), max(low, high)


def chart(
    decided: Sequence[Verdict],
    links: Mapping[str, str],
    titles: Mapping[str, str],
    narrow: bool = False,
) -> Figure:
    """A dot and its 95 % interval for each claim that has one, by network.

    Args:
        decided: verdicts; those without an interval are left out.
        links: by claim, where its dot leads.
        titles: by network, in the order in which they are drawn.
        narrow: whether each name stands above its dot, as on a telephone, and not beside it.
    """
    drawn = [one for one in decided if not math.isnan(one.p)]
    lines: list[Verdict | str] = []
    for network, title in titles.items():
        own = [one for one in drawn if one.claim.network == network]
        if own:
            lines += ["", title] if lines else [title]
            lines += [line for one in own for line in (["", one] if narrow else [one])]
    left = BESIDE if narrow else max([0.0, *map(_points_wide, drawn)]) + BESIDE
    width, height = left + PLOT + BESIDE, ABOVE + ROW * max(len(lines), 1) + BELOW
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH))
        box = (left / width, BELOW / height, PLOT / width, 1 - (ABOVE + BELOW) / height)
        ax = figure.add_axes(box)
        _draw(ax, lines, links, narrow)
        _axis(ax, drawn, lines)
        # The picture is longer than a screen: its axis is named at both ends, its legend on top.
        ax.tick_params(top=True, labeltop=True)
        ax.set_title(AXIS, loc="center", size=STYLE["axes.labelsize"])
        legend(figure, ax, list(MARKS), loc="upper center", columns=2 if narrow else 4)
    return figure


def _short(claim: Claim) -> str:
    """A claim in a clause, without the checkpoints that its group has in common."""
    return claim_words(claim).removesuffix(f", {WHEN[claims.LAST_TEN]}")


def _points_wide(one: Verdict) -> float:
    """Width of a claim's name in the picture."""
    font = FontProperties(family=STYLE["font.family"], size=NAME)
    return TextToPath().get_text_width_height_descent(_short(one.claim), font, False)[0]


def legend(
    figure: Figure, ax: Axes, words: Iterable[str], loc="outside lower center", columns=4
) -> None:
    """An entry for each of some verdicts' words, in the order of ``MARKS``."""
    seen = list(words)
    for word in sorted(set(seen), key=[*MARKS, *seen].index):
        color, shape = MARKS.get(word, ("muted", "o"))
        ax.scatter([], [], marker=shape, color=COLORS[color], label=word)
    if seen:
        figure.legend(loc=loc, ncols=columns)


def intervals(groups: Mapping[str, Sequence[Verdict]]) -> tuple[Figure, str, dict[str, str]]:
    """Dot and 95 % interval of some claims, and the numbers beside them, for a chapter.

    Args:
        groups: verdicts by the title that stands over them. A claim without an interval gets a
            line of words that says why.

    Returns:
        The figure, an alternative text with every claim's word, and the ``views`` of what the
        claims are about, as `flatlib.lab.figures.show` takes them.

    Raises:
        ValueError: no verdict at all.
    """
    found = [one for own in groups.values() for one in own]
    if not found:
        raise ValueError(f"there is no verdict to draw in {', '.join(groups) or 'no group'}")
    lines = [line for title, own in groups.items() for line in (title, *own)]
    figure, ax = canvas(height=60 + 15 * len(lines))
    drawn = [one for one in found if not math.isnan(one.p)]
    for row, one in enumerate(lines):
        across = {"transform": ax.get_yaxis_transform(), "va": "center", "size": 8.5}
        if isinstance(one, str):
            ax.text(0.0, row, one, weight="bold", **across)
            continue
        ax.text(-0.02, row, SYMBOLS[one.claim.quantity], ha="right", **across)
        ax.text(1.02, row, effect_words(one), color=COLORS["muted"], **across)
        if math.isnan(one.p):
            why = f"not tested: {reason_words(one)}"
            ax.text(0.98, row, why, ha="right", color=COLORS["muted"], **across)
            continue
        _dot(ax, row, one)
    _axis(ax, drawn, lines)
    legend(figure, ax, [one.word for one in drawn])
    said = "; ".join(
        f"{title}: "
        + ", ".join(f"{SYMBOLS[one.claim.quantity]} {effect_words(one)}, {one.word}" for one in own)
        for title, own in groups.items()
    )
    alt = f"Claims as dots with 95 % intervals, in margins. {said}."
    return figure, alt, addresses(views_of_verdicts(found))


def _draw(ax: Axes, lines: Sequence[Verdict | str], links: Mapping[str, str], narrow: bool) -> None:
    """One line a claim, its name on the left or above; a network's title on a line of its own."""
    across = {"transform": ax.get_yaxis_transform(), "va": "center"}
    x, across["ha"] = (0.0, "left") if narrow else (-0.02, "right")
    for row, one in enumerate(lines):
        if isinstance(one, str):
            ax.text(x, row, one, weight="bold", **across)
            continue
        dot = _dot(ax, row, one)
        name = ax.text(x, row - 0.7 * narrow, _short(one.claim), size=NAME, **across)
        dot.set_urls([links[one.claim.key]])
        name.set_url(links[one.claim.key])


def _dot(ax: Axes, row: int, one: Verdict) -> PathCollection:
    """A claim's interval and its mean, with the colour and the shape of its word."""
    value, low, high = in_margins(one)
    color, shape = MARKS[one.word]
    look = {"color": COLORS[color], "clip_on": False}
    ax.plot([low, high], [row, row], lw=1.4, ls="-", **look)
    return ax.scatter([value], [row], s=34, marker=shape, zorder=3, **look)


def _axis(ax: Axes, drawn: Sequence[Verdict], lines: Sequence[Verdict | str]) -> None:
    """Margins on an axis that is linear up to one margin and logarithmic beyond."""
    limit = 1.3 * max([1.0, *(abs(end) for one in drawn for end in in_margins(one))])
    ticks = [tick for tick in TICKS if abs(tick) <= limit]
    blocks = [(first - 0.5, last + 0.5) for first, last in _blocks(lines)]
    bands = [[(-1, low), (1, low), (1, high), (-1, high)] for low, high in blocks]
    # A title stands on no band and no line.
    ax.add_collection(PolyCollection(bands, color=COLORS["grid"], alpha=0.6, lw=0, zorder=1))
    ax.vlines(
        np.zeros(len(blocks)),
        *np.transpose(blocks or np.zeros((0, 2))),
        color=COLORS["muted"],
        lw=0.8,
        zorder=1.5,
    )
    ax.set_xscale("symlog", linthresh=1.0, linscale=0.8)
    ax.set(xlim=(-limit, limit), ylim=(len(lines) - 0.4, -0.8), yticks=[])
    ax.set_xticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(AXIS)
    ax.spines["left"].set_visible(False)


def _blocks(lines: Sequence[Verdict | str]) -> list[tuple[int, int]]:
    """First and last row of each run of verdicts between titles.

    >>> _blocks(["title", 1, 2, "", "title", 3])
    [(1, 2), (5, 5)]
    """
    rows = [row for row, one in enumerate(lines) if not isinstance(one, str)]
    firsts = [row for row in rows if row - 1 not in rows]
    lasts = [row for row in rows if row + 1 not in rows]
    return list(zip(firsts, lasts, strict=True))


def chart_html(wide: Figure, narrow: Figure, alt: str) -> str:
    """The picture as inline SVG, whose dots are links and whose colours follow the theme.

    Args:
        wide: of `chart`, for a screen.
        narrow: of `chart`, for a telephone; the page's style shows one of the two.
        alt: what both show.
    """
    return (
        f'<figure class="claims-picture">{_svg(wide, alt, "wide")}{_svg(narrow, alt, "narrow")}'
        "</figure>"
    )


def _svg(figure: Figure, alt: str, name: str) -> str:
    """A figure as inline SVG of a class, with ids that no other picture on the page has."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE | {"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = _slim(re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", svg))
    for color, (light, _) in PAIRS.items():
        svg = svg.replace(light, f"var(--flatlib-{color})")
    label = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    opening = f'<svg class="{name}" role="group" aria-label="{label}" '
    return _with_classes(svg, name).replace("<svg ", opening, 1)


def _with_classes(svg: str, name: str) -> str:
    """The drawing with each style that occurs often said once, as a class.

    >>> _with_classes("<svg>" + 10 * '<path style="fill: red"/>' + "</svg>", "a")[:65]
    '<svg><style>.a-0{fill: red}</style><path class="a-0"/><path class'
    """
    found = Counter(re.findall(r' style="([^"]*)"', svg))
    often = [style for style, times in found.items() if times >= OFTEN]
    for k, style in enumerate(often):
        svg = svg.replace(f' style="{style}"', f' class="{name}-{k}"')
    rules = "".join(f".{name}-{k}{{{style}}}" for k, style in enumerate(often))
    return svg.replace(">", f"><style>{rules}</style>", 1)


def _slim(svg: str) -> str:
    """The drawing without ids that nothing names, groups that say nothing, turns by no angle, long
    decimals and indents, and with links that open where the reader is.

    >>> _slim('<svg ><g id="a">\\n  <use href="#b" x="1.23456"/><path id="b"/></g></svg>')
    '<svg ><use href="#b" x="1.23"/><path id="b"/></svg>'
    """
    svg = re.sub(r"\s*\n\s*", "\n", svg).replace(' target="_blank"', "")
    svg = re.sub(r' transform="rotate\(-?0 [^"]*\)"', "", svg)
    svg = re.sub(r"(\d\.\d\d)\d+", r"\1", svg)
    named = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in named else "", svg)
    found = 1
    while found:
        svg, found = re.subn(r"<g>\n?((?:(?!<g[ >])[\s\S])*?)</g>\n?", r"\1", svg)
    return svg


def theme_css() -> str:
    """The colours that `chart_html` names, in light and dark."""
    light = "".join(f"--flatlib-{name}:{pair[0]};" for name, pair in PAIRS.items())
    dark = "".join(f"--flatlib-{name}:{pair[1]};" for name, pair in PAIRS.items())
    return f'<style>html{{{light}}}html[data-theme="dark"]{{{dark}}}</style>'
