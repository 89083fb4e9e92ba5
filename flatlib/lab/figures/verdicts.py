"""Pictures of verdicts: a dot and an interval a claim."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from flatlib.lab import verdicts
from flatlib.lab.sentences import SYMBOLS, claim_words, effect_words, reason_words
from flatlib.lab.verdicts import Verdict

from .style import COLORS, PAIRS, POINTS_PER_INCH, STYLE, canvas
from .views import addresses, views_of_verdicts

MARKS = {  # word: colour and shape
    verdicts.HELD: ("blue", "o"),
    verdicts.AGAINST: ("orange", "X"),
    verdicts.NO_DIFFERENCE: ("green", "s"),
    verdicts.NOT_DECIDED: ("muted", "D"),
}
WIDE, ROW, HEAD = 800.0, 13.0, 90.0  # points
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
    decided: Sequence[Verdict], links: Mapping[str, str], titles: Mapping[str, str]
) -> Figure:
    """A dot and its 95 % interval for each claim that has one, by network.

    Args:
        decided: verdicts; those without an interval are left out.
        links: by claim, where its dot leads.
        titles: by network, in the order in which they are drawn.
    """
    drawn = [one for one in decided if not math.isnan(one.p)]
    lines: list[Verdict | str] = []
    for network, title in titles.items():
        own = [one for one in drawn if one.claim.network == network]
        lines += [title, *own] if own else []
    height = HEAD + ROW * max(len(lines), 1)
    top, bottom = 1 - 14 / height, 60 / height
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDE / POINTS_PER_INCH, height / POINTS_PER_INCH))
        # On the left there is room for the longest name of a claim.
        ax = figure.add_axes((0.56, bottom, 0.42, top - bottom))
        _draw(ax, lines, links)
        _axis(ax, drawn, len(lines))
        for word, (color, shape) in MARKS.items():
            ax.scatter([], [], marker=shape, color=COLORS[color], label=word)
        figure.legend(loc="lower center", ncols=len(MARKS))
    return figure


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
    _axis(ax, drawn, len(lines))
    for word in dict.fromkeys(one.word for one in drawn):
        color, shape = MARKS[word]
        ax.scatter([], [], marker=shape, color=COLORS[color], label=word)
    if drawn:
        figure.legend(loc="outside lower center", ncols=len(MARKS))
    said = "; ".join(
        f"{title}: "
        + ", ".join(f"{SYMBOLS[one.claim.quantity]} {effect_words(one)}, {one.word}" for one in own)
        for title, own in groups.items()
    )
    alt = f"Claims as dots with 95 % intervals, in margins. {said}."
    return figure, alt, addresses(views_of_verdicts(found))


def _draw(ax: Axes, lines: Sequence[Verdict | str], links: Mapping[str, str]) -> None:
    """One line a claim, its name on the left; a network's title on a line of its own."""
    left = {"transform": ax.get_yaxis_transform(), "ha": "right", "va": "center"}
    for row, one in enumerate(lines):
        if isinstance(one, str):
            ax.text(-0.02, row, one, weight="bold", **left)
            continue
        dot = _dot(ax, row, one)
        name = ax.text(-0.02, row, claim_words(one.claim), size=8.5, **left)
        dot.set_urls([links[one.claim.key]])
        name.set_url(links[one.claim.key])


def _dot(ax: Axes, row: int, one: Verdict) -> PathCollection:
    """A claim's interval and its mean, with the colour and the shape of its word."""
    value, low, high = in_margins(one)
    color, shape = MARKS[one.word]
    ax.plot([low, high], [row, row], color=COLORS[color], lw=1.4, ls="-")
    return ax.scatter([value], [row], s=34, marker=shape, color=COLORS[color], zorder=3)


def _axis(ax: Axes, drawn: Sequence[Verdict], lines: int) -> None:
    """Margins on an axis that is linear up to one margin and logarithmic beyond."""
    limit = 1.3 * max([1.0, *(abs(end) for one in drawn for end in in_margins(one))])
    ticks = [tick for tick in TICKS if abs(tick) <= limit]
    ax.axvspan(-1, 1, color=COLORS["grid"], alpha=0.6, lw=0)
    ax.axvline(0, color=COLORS["muted"], lw=0.8, ls="-")
    ax.set_xscale("symlog", linthresh=1.0, linscale=0.8)
    ax.set(xlim=(-limit, limit), ylim=(lines - 0.4, -0.8), yticks=[])
    ax.set_xticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("change in margins; to the right as the paper says")
    ax.spines["left"].set_visible(False)


def chart_html(figure: Figure, alt: str) -> str:
    """The picture as inline SVG, whose dots are links and whose colours follow the theme."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE | {"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for name, (light, _) in PAIRS.items():
        svg = svg.replace(light, f"var(--flatlib-{name})")
    label = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    svg = svg.replace("<svg ", f'<svg role="group" aria-label="{label}" ', 1)
    return f'<figure class="claims-picture">{svg}</figure>'


def theme_css() -> str:
    """The colours that `chart_html` names, in light and dark."""
    light = "".join(f"--flatlib-{name}:{pair[0]};" for name, pair in PAIRS.items())
    dark = "".join(f"--flatlib-{name}:{pair[1]};" for name, pair in PAIRS.items())
    return f'<style>html{{{light}}}html[data-theme="dark"]{{{dark}}}</style>'
