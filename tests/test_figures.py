"""Figures: the same drawing in two themes, readable without colour vision, never without words."""

import base64
import io
import re
from itertools import combinations

import matplotlib
import numpy as np
import pandas as pd
import pytest
import synthetic_population
from IPython.core.interactiveshell import InteractiveShell

from flatlib.lab import figures, statistics

# Simulated colour vision deficiency, full severity (Machado, Oliveira and Fernandes 2009).
VISION = {
    "full": np.eye(3),
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
RGB_TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
)
THEMES = ("light", "dark")


def linear_rgb(color: str) -> np.ndarray:
    srgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def luminance(color: str) -> float:
    return float(RGB_TO_XYZ[1] @ linear_rgb(color))


def lab(rgb: np.ndarray) -> np.ndarray:
    white = RGB_TO_XYZ.sum(axis=1)
    t = RGB_TO_XYZ @ np.clip(rgb, 0, 1) / white
    g = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * g[1] - 16, 500 * (g[0] - g[1]), 200 * (g[1] - g[2])])


@pytest.fixture(autouse=True)
def style():
    with matplotlib.rc_context():
        figures.use_style()
        yield


@pytest.fixture
def drawing():
    figure, ax = figures.canvas()
    for index, name in enumerate(figures.CYCLE):
        ax.plot([0, 1, 2], [index, 1, index], color=figures.COLORS[name])
    ax.set(xlabel="across", title="up")
    return figure


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", [*figures.CYCLE, "ink", "muted"])
def test_lines_and_text_stand_out_from_their_page(name, theme):
    side = THEMES.index(theme)
    ink, paper = (luminance(figures.PAIRS[key][side]) for key in (name, "paper"))
    contrast = (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05)
    assert contrast >= (4.5 if name in ("ink", "muted") else 3.0)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("vision", VISION)
def test_colours_stay_apart_for_every_kind_of_colour_vision(vision, theme):
    seen = {
        name: lab(np.array(VISION[vision]) @ linear_rgb(figures.PAIRS[name][THEMES.index(theme)]))
        for name in figures.CYCLE
    }
    closest = min(np.linalg.norm(seen[a] - seen[b]) for a, b in combinations(seen, 2))
    assert closest >= 19


def test_colours_exchange_one_for_one():
    light, dark = zip(*figures.PAIRS.values(), strict=True)
    assert len({*light, *dark}) == 2 * len(figures.PAIRS)


def test_dark_is_the_same_drawing_in_other_colours(drawing):
    light, dark = (figures.to_svg(drawing, theme) for theme in THEMES)
    shape = re.compile(r"#[0-9a-f]{6}\b")
    assert shape.sub("", light) == shape.sub("", dark)
    for name in (*figures.CYCLE, "ink", "grid"):
        assert figures.PAIRS[name][0] in light and figures.PAIRS[name][0] not in dark
        assert figures.PAIRS[name][1] in dark and figures.PAIRS[name][1] not in light


def test_nothing_is_drawn_in_matplotlibs_own_black(drawing):
    assert "#000000" not in figures.to_svg(drawing)


def test_the_same_drawing_gives_the_same_bytes(drawing):
    assert figures.to_svg(drawing) == figures.to_svg(drawing)


def test_page_holds_both_themes_alt_text_and_stamp(drawing):
    page = figures.to_html(drawing, 'sides "a" & <b>\n  meet', stamp="smoke, seed 1 < 2")
    assert page.count('alt="sides &quot;a&quot; &amp; &lt;b&gt; meet"') == 2
    stamp = '<span class="figure-stamp">smoke, seed 1 &lt; 2</span>'
    assert f"<figcaption>{stamp}</figcaption>" in page
    images = re.findall(r'class="only-(\w+)"[^>]*base64,([^"]+)"', page)
    for theme, data in images:
        assert base64.b64decode(data).decode() == figures.to_svg(drawing, theme)
    assert [theme for theme, _ in images] == ["light", "dark"]


def test_number_and_caption_come_before_the_stamp_in_plain_text(drawing):
    page = figures.to_html(
        drawing, "five lines", stamp="seed 1", caption="A < B,\n  & C.", number="1b.12"
    )
    told = "<b>Figure 1b.12.</b> A &lt; B, &amp; C."
    stamp = '<span class="figure-stamp">seed 1</span>'
    assert page.endswith(f"<figcaption>{told} {stamp}</figcaption></figure>")


def test_a_caption_may_stand_without_number_and_stamp(drawing):
    page = figures.to_html(drawing, "five lines", caption="Five lines.")
    assert page.endswith("<figcaption>Five lines.</figcaption></figure>")


def test_page_has_no_caption_without_words_for_it(drawing):
    assert "figcaption>" not in figures.to_html(drawing, "five lines")


@pytest.mark.parametrize("number", ["4", "4.", ".2", "Figure 4.2", "4.2.", "b.1", "4.2\n"])
def test_a_number_of_another_form_is_refused(drawing, number):
    with pytest.raises(ValueError, match=f"such as '4.2': got {re.escape(repr(number))}"):
        figures.to_html(drawing, "five lines", caption="Five lines.", number=number)


def test_a_numbered_figure_without_a_caption_is_refused(drawing):
    with pytest.raises(ValueError, match="Figure 4.2 has no caption"):
        figures.show(drawing, "five lines", stamp="seed 1", caption=" \n", number="4.2")


@pytest.mark.parametrize("alt", ["", "  \n"])
def test_a_figure_without_words_is_refused(drawing, alt):
    with pytest.raises(ValueError, match="alt is empty"):
        figures.to_html(drawing, alt)


def test_show_displays_page_and_plain_text(drawing):
    from IPython.utils.capture import capture_output

    InteractiveShell.instance()
    with capture_output() as captured:
        figures.show(drawing, "five lines", stamp="here", caption="Five.", number="4.2")
    (output,) = captured.outputs
    assert output.data["text/plain"] == "figure: five lines"
    assert output.data["text/html"] == figures.to_html(
        drawing, "five lines", "here", "Five.", "4.2"
    )


@pytest.mark.parametrize("theme", ["sepia", "", "Light"])
def test_unknown_theme_is_refused(drawing, theme):
    with pytest.raises(ValueError, match="theme must be"):
        figures.to_svg(drawing, theme)


@pytest.mark.parametrize("size", [{"height": 0}, {"width": -1}])
def test_size_must_be_positive(size):
    with pytest.raises(ValueError, match="above 0"):
        figures.canvas(**size)


def test_both_sides_puts_right_across_and_left_up():
    figure, ax = figures.canvas()
    figures.both_sides(ax, [1, 2], [10, 20], label="a")
    figures.both_sides(ax, [3], [30], label="b", color="orange")
    assert [c.get_offsets().tolist() for c in ax.collections] == [[[10, 1], [20, 2]], [[30, 3]]]
    assert len(ax.lines) == 1  # one diagonal, however many calls
    assert ax.get_xscale() == ax.get_yscale() == "log"


def test_ellipse_has_the_singular_values_as_semi_axes():
    matrix = np.array([[2.0, 1.0], [0.5, -1.0]])
    figure, ax = figures.canvas()
    figures.ellipse(ax, matrix)
    radius = np.linalg.norm(ax.lines[0].get_xydata(), axis=1)
    largest, smallest = np.linalg.svd(matrix, compute_uv=False)
    assert radius.max() == pytest.approx(largest, rel=1e-3)
    assert radius.min() == pytest.approx(smallest, rel=1e-3)


def test_ellipse_needs_a_plane():
    figure, ax = figures.canvas()
    with pytest.raises(ValueError, match=r"2 x 2 matrix, got \(3, 2\)"):
        figures.ellipse(ax, np.ones((3, 2)))


def test_ladder_draws_each_network_on_its_row():
    figure, ax = figures.canvas()
    figures.ladder(ax, {"linear": {"A": 1, "B": 2}, "tanh": {"A": 3, "B": 9}})
    marks = [tuple(c.get_offsets()[0]) for c in ax.collections]
    assert marks == [(1, 0), (2, 0), (3, 1), (9, 1)]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["A", "B"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["linear", "tanh"]


def test_settings_and_terms_each_have_one_look_and_never_share_it():
    for table in (figures.SETTINGS, figures.CHAIN):
        for part in ("color", "marker", "line"):
            assert len({getattr(look, part) for look in table.values()}) == len(table)
        assert all(look.color in figures.COLORS for look in table.values())


def losses(**rows) -> pd.DataFrame:
    table = [(row, "random", value) for row, values in rows.items() for value in values]
    return pd.DataFrame(table, columns=["row", "kind", "lost"])


def test_slack_draws_quartiles_and_says_what_is_infinite():
    values = np.geomspace(0.01, 100.0, 41)
    figure, ax = figures.canvas()
    figures.slack(ax, losses(a=values, b=[0.1, 0.2, np.inf, np.nan]), equal=["b"])
    quartiles = sorted(line.get_xdata()[0] for line in ax.lines[:3])
    np.testing.assert_allclose(quartiles, np.percentile(values, [25, 50, 75]), rtol=1e-9)
    assert [text.get_text() for text in ax.texts] == ["∞ 33%"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b"]
    assert ax.collections[-1].get_offsets().tolist() == [[0.001, 1]]
    interval = ax.collections[-2].get_segments()[0]
    found = statistics.quantile(values)
    np.testing.assert_allclose(interval, [[found.low, 0], [found.high, 0]])
    assert found.low < np.median(values) < found.high
    assert ax.get_xlim()[1] > 100


def test_slack_refuses_an_inequality_that_does_not_hold():
    figure, ax = figures.canvas()
    with pytest.raises(ValueError, match="b loses -0.5 orders: it does not hold"):
        figures.slack(ax, losses(a=[1.0], b=[0.1, -0.5]))


def test_medians_stand_in_order_with_the_middle_half():
    figure, ax = figures.canvas()
    table = losses(
        low=[1.0, 2.0, 3.0, 4.0, 5.0],
        high=[10.0, 20.0, 30.0, np.inf, 9.0],
        none=[np.inf, np.inf, 1.0],
    )
    assert figures.medians(ax, table) == ["high", "low"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["high", "low"]
    dots = np.sort(
        np.concatenate(
            [line.get_xdata() for line in ax.lines if line.get_marker() not in ("", "None", None)]
        )
    )
    np.testing.assert_allclose(dots, [3.0, 20.0])
    bars = sorted(
        tuple(line.get_xdata())
        for line in ax.lines
        if len(line.get_xdata()) == 2
        and line.get_linestyle() == "-"
        and line.get_ydata()[0] == line.get_ydata()[1]
    )
    np.testing.assert_allclose(bars, [(2.0, 4.0), (10.0, 30.0)])


def test_panels_draw_one_quantity_each():
    table = pd.DataFrame({"step": [0, 5], "train_loss": [1.0, 0.1], "mls": [2.0, 1.0]})
    columns = {"train_loss": "loss", "mls": "MLS"}
    figure = figures.panels({"slow": table}, columns, logarithmic=("train_loss",))
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["loss", "MLS"]
    assert [ax.get_yscale() for ax in figure.axes] == ["log", "linear"]
    assert figure.axes[1].lines[0].get_xydata().tolist() == [[0, 2], [5, 1]]
    assert not figure.legends


def test_panels_draw_one_line_a_run():
    table = pd.DataFrame({"step": [0, 5], "mls": [2.0, 1.0]})
    figure = figures.panels({"slow": table, "fast": table / 2}, {"mls": "MLS"})
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [[2, 1], [1, 0.5]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["slow", "fast"]


def test_panels_name_a_missing_column():
    with pytest.raises(ValueError, match=r"'run' has no column \['mls'\]"):
        figures.panels({"run": pd.DataFrame({"step": [0]})}, {"mls": "MLS"})


def test_style_survives_a_caller_who_changed_matplotlib(drawing):
    before = figures.to_svg(drawing)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "other"}):
        assert figures.to_svg(drawing) == before
    assert io.StringIO(before).readline().startswith("<?xml")


def test_clouds_of_every_pair_lie_on_their_page_with_all_labels():
    names = ("root_sharpness", "mls", "nmls", "generalization_gap")
    conditions = {"loss": "at one loss", "step": "at one step"}
    figure, alt = figures.scatter(synthetic_population.drawn(), names, conditions)
    figure.draw_without_rendering()
    drawn, page = figure.get_tightbbox(), figure.bbox_inches
    assert drawn.x0 >= page.x0 and drawn.y0 >= page.y0
    assert drawn.x1 <= page.x1 and drawn.y1 <= page.y1
    assert "test minus train loss" in alt
