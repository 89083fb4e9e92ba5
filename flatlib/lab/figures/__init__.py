"""Every plot: one style in light and dark, and the paper's figures from the archive."""

from .archived import reproduce, through_training
from .correlations import WITH_BOUNDS, between_and_within, correlations, pairs
from .curves import ArchiveFigure, curve
from .inequalities import inequalities, inequality_table
from .populations import (
    against_baseline,
    dots,
    measures_and_outcomes,
    response_dots,
    scatter,
    seed_by_seed,
    side_dots,
)
from .slack import medians, slack
from .style import (
    CHAIN,
    COLORS,
    CYCLE,
    LINES,
    PAIRS,
    SETTINGS,
    STYLE,
    SWITCH,
    WIDTH,
    both_sides,
    canvas,
    ellipse,
    ladder,
    panels,
    show,
    to_html,
    to_svg,
    use_style,
)
from .verdicts import intervals

__all__ = [
    "CHAIN",
    "COLORS",
    "CYCLE",
    "LINES",
    "PAIRS",
    "SETTINGS",
    "STYLE",
    "SWITCH",
    "WIDTH",
    "WITH_BOUNDS",
    "ArchiveFigure",
    "against_baseline",
    "between_and_within",
    "both_sides",
    "canvas",
    "correlations",
    "curve",
    "dots",
    "ellipse",
    "inequalities",
    "inequality_table",
    "intervals",
    "ladder",
    "measures_and_outcomes",
    "medians",
    "pairs",
    "panels",
    "reproduce",
    "response_dots",
    "scatter",
    "seed_by_seed",
    "show",
    "side_dots",
    "slack",
    "through_training",
    "to_html",
    "to_svg",
    "use_style",
]
