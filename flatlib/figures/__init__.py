"""Every plot: one style in light and dark, and the paper's figures from the archive."""

from .archived import reproduce, through_training
from .correlations import between_and_within, correlations
from .curves import ArchiveFigure
from .inequalities import inequalities, inequality_table
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
    "ArchiveFigure",
    "between_and_within",
    "both_sides",
    "canvas",
    "correlations",
    "ellipse",
    "inequalities",
    "inequality_table",
    "ladder",
    "panels",
    "reproduce",
    "show",
    "through_training",
    "to_html",
    "to_svg",
    "use_style",
]
