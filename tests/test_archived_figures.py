"""The paper's figures, drawn from an archive whose every mean and spread is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from synthetic_archive import SEED_SHIFT, STEPS, level, write

from flatlib import figures
from flatlib.archive import read
from flatlib.figures import archived

RATES = ((0.05, 20), (0.1, 20), (0.2, 20))
BATCHES = ((0.1, 8), (0.1, 20), (0.1, 32))
ALL = tuple(dict.fromkeys(RATES + BATCHES))


def whole(settings):
    return [(lr, batch, seed, 60_000) for lr, batch in settings for seed in SEED_SHIFT]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """All settings of both networks, three seeds, whole."""
    figures.use_style()
    folder = tmp_path_factory.mktemp("results")
    for name in ("correlations-vgg10", "correlations-mlp"):
        write(folder, name, whole(ALL))
    return folder


def lines(ax) -> dict:
    return {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}


def known(setting, factor=1.0):
    return factor * (level(*setting) + np.array(STEPS) / 10_000)


@pytest.mark.parametrize(
    ("function", "settings"),
    [
        (archived.figure_1, RATES),
        (archived.figure_2, BATCHES),
        (archived.figure_E8, RATES),
        (archived.figure_E7, BATCHES),
    ],
)
def test_lines_are_the_known_means_in_the_papers_order(archive, function, settings):
    found = function("laptop", archive)
    titles = [ax.get_title(loc="left") for ax in found.figure.axes[:8]]
    assert titles == [title for title, _ in archived.PANELS.values()]
    factors = {2: 1.0, 3: -1.0, 4: -0.5, 5: 2.0, 7: 1.0}
    for panel, factor in factors.items():
        drawn = lines(found.figure.axes[panel])
        assert len(drawn) == 3
        for setting in settings:
            line = drawn[archived.label(setting)]
            np.testing.assert_array_equal(line.get_xdata(), STEPS)
            np.testing.assert_allclose(line.get_ydata(), known(setting, factor), rtol=1e-9)


def test_bands_are_one_standard_deviation_to_each_side(archive):
    found = archived.figure_1("laptop", archive)
    band = found.figure.axes[2].collections[0].get_paths()[0].vertices
    for step, mean in zip(STEPS, known(RATES[0]), strict=True):
        at_step = band[band[:, 0] == step][:, 1]
        assert (at_step.min(), at_step.max()) == pytest.approx((mean - 1, mean + 1))
    assert (found.numbers["root_sharpness.n"] == 3).all()
    np.testing.assert_allclose(found.numbers["gradient_energy.spread"], 2.0)


def test_figure_3_keeps_misclassified_samples_apart(archive):
    found = archived.figure_3("laptop", archive)
    sharpness, loss, wrong = found.figure.axes[2], found.figure.axes[1], found.figure.axes[7]
    for samples, extra in (("train", 0), ("test", 1), ("misclassified", 2)):
        line = lines(sharpness)[f"{samples} samples"]
        np.testing.assert_allclose(line.get_ydata(), known((0.1, 20)) + extra)
    assert set(lines(loss)) == {"test samples", "misclassified samples"}
    np.testing.assert_allclose(lines(loss)["test samples"].get_ydata(), known((0.1, 20), 0.1))
    np.testing.assert_allclose(lines(loss)["misclassified samples"].get_ydata(), 2.5)
    assert list(lines(wrong)) == ["misclassified samples"]
    # A tenth of the 100 test images are wrong, of which 7 are measured.
    np.testing.assert_allclose(lines(wrong)["misclassified samples"].get_ydata(), 10)
    assert found.caption.endswith("7 to 7 were measured at a checkpoint.")


def test_figure_d4_shows_the_chain_and_its_gaps(archive):
    found = archived.figure_D4("laptop", archive)
    chain, gaps = (lines(ax) for ax in found.figure.axes)
    for name, factor in {"A": 1, "B": 2, "C": 3, "C′": 2.5, "D": 12}.items():
        np.testing.assert_allclose(chain[name].get_ydata(), known((0.1, 20), factor))
    for name, factor in {"B / A": 2, "C / B": 1.5, "D / C": 4}.items():
        np.testing.assert_allclose(gaps[name].get_ydata(), factor)


@pytest.mark.parametrize("function", [archived.figure_D5, archived.figure_D6])
def test_correlations_are_numpys_over_all_networks(archive, function):
    found = function("laptop", archive)
    rows, step, out = found.runs.at_one_step()
    assert (len(rows), step, out) == (15, 60_000, [])
    metrics = len(archived.METRICS) + 2 * (function is archived.figure_D6)
    assert len(found.numbers) == metrics * (metrics - 1) // 2
    for _, pair in found.numbers.iterrows():
        expected = np.corrcoef(rows[pair["first"]], rows[pair["second"]])[0, 1]
        assert pair["rho"] == pytest.approx(expected)
        both = rows[[pair["first"], pair["second"]]]
        settings = both.groupby([rows["lr"], rows["batch_size"]])
        means, rest = settings.mean(), both - settings.transform("mean")
        for name, points in (("between", means), ("within", rest)):
            if (points.std() > 1e-12).all():
                expected = np.corrcoef(points.to_numpy().T)[0, 1]
                assert pair[name] == pytest.approx(expected)
            else:
                assert math.isnan(pair[name])
        assert math.isnan(pair["between"]) or pair["low"] <= pair["between"] <= pair["high"]
    first = found.numbers.set_index(["first", "second"])["rho"]
    assert first["gradient_energy", "mls"] == pytest.approx(1)
    assert first["root_sharpness", "log_volume"] == pytest.approx(-1)


def test_correlations_leave_short_runs_out_by_name(tmp_path):
    write(tmp_path, "correlations-mlp", whole(RATES))
    write(tmp_path, "correlations-mlp", [(0.1, 8, 0, 0), (0.1, 32, 1, 30_000)])
    found = archived.figure_D6("laptop", tmp_path)
    assert "networks: 10, at step 30,000" in found.caption
    assert "Left out, too short or diverged: mlp_fashion-mnist-first-2000_lr0.1_batch8_seed0." in (
        found.caption
    )
    assert (found.numbers["n"] == 10).all()


def test_both_sides_and_gaps_of_inequalities(archive):
    runs = read("correlations-mlp", "laptop", archive)
    found = archived.inequalities("sensitivity", runs)
    at = found.numbers.set_index(["key", "step"])
    value = dict(zip(STEPS, known((0.1, 20)), strict=True))
    for step in STEPS:
        assert at.loc[("25", step), "left.mean"] == pytest.approx(value[step])
        assert at.loc[("25", step), "right.mean"] == pytest.approx(2 * value[step])
        assert at.loc[("25", step), "gap.mean"] == pytest.approx(value[step])
        assert at.loc[("25", step), "decades.mean"] == pytest.approx(np.log10(2))
    assert at.loc[("13", 60_000), "decades.mean"] == pytest.approx(-1)
    titles = [ax.get_title(loc="left") for ax in found.figure.axes]
    assert [title for title in titles if title] == ["(25) name 25", "(13) name 13"]


def test_gaps_between_logarithms_are_differences(archive):
    runs = read("correlations-mlp", "laptop", archive)
    numbers = archived.inequalities("volume", runs).numbers
    np.testing.assert_allclose(numbers["gap.mean"], np.log(10))
    np.testing.assert_allclose(numbers["decades.mean"], 1)


def test_an_infinite_right_side_is_said_and_not_drawn(archive):
    runs = read("correlations-vgg10", "laptop", archive)
    found = archived.inequalities("convolutions", runs)
    top, low = found.figure.axes
    assert "not proven here" in top.get_title(loc="left")
    assert set(lines(top)) == {"left side"}
    assert "infinite" in low.texts[0].get_text()
    assert "Not drawn, infinite" in found.caption


def test_the_table_counts_where_an_inequality_held(archive):
    runs = read("correlations-mlp", "laptop", archive)
    table = archived.inequality_table(runs).set_index("key")
    assert (table["measured"] == 15 * 3 * 2).all()  # runs, steps, sets of samples
    assert table.loc["25", "held"] == 90
    assert table.loc["13", "held"] == 90 - 15  # training samples at the last step
    assert table.loc["13", "least"] == pytest.approx(-1)
    assert table.loc["13", "last"] == pytest.approx(-1)
    assert table.loc["11", "last"] == pytest.approx(1)


@pytest.mark.parametrize("group", ["nothing", "layers and dimensions"])
def test_groups_that_are_unknown_or_not_recorded_are_refused(archive, group):
    runs = read("correlations-mlp", "laptop", archive)
    with pytest.raises(ValueError, match="group must be one of|no inequality on"):
        archived.inequalities(group, runs)


def test_a_setting_without_runs_has_no_inequalities(tmp_path):
    write(tmp_path, "mlp-bounds", [(0.1, 20, 0, 60_000)])
    runs = read("correlations-mlp", "laptop", tmp_path)
    with pytest.raises(ValueError, match="no run of correlations-mlp .* lr 0.2, batch 20"):
        archived.inequalities("sensitivity", runs, (0.2, 20))


def test_figures_of_a_partial_archive_draw_what_is_there(tmp_path):
    write(tmp_path, "mlp-batch-size", [(0.1, 20, 0, 60_000), (0.1, 8, 1, 30_000)])
    found = archived.figure_E7("laptop", tmp_path)
    drawn = lines(found.figure.axes[2])
    assert set(drawn) == {"lr 0.1, batch 8", "lr 0.1, batch 20"}
    assert len(drawn["lr 0.1, batch 8"].get_xdata()) == 2
    assert not found.figure.axes[2].collections
    assert "Each line is one seed" in found.caption


@pytest.mark.parametrize("name", ["1", "2", "3", "D4", "D5", "D6", "E7", "E8"])
def test_every_figure_has_words_and_colours_for_both_themes(archive, name):
    found = getattr(figures, f"figure_{name}")("laptop", archive)
    dark = figures.to_svg(found.figure, "dark")
    assert not [name for name, (light, _) in figures.PAIRS.items() if light in dark]
    number = name if name.isdigit() else f"{name[0]}.{name[1]}"
    assert found.caption.startswith(f"Figure {number} of the paper")
    assert "laptop scale" in found.caption
    assert found.alt
    assert "nan" not in found.alt


def test_a_notebook_shows_figure_words_and_caption(archive, monkeypatch):
    shown = []
    monkeypatch.setattr(archived, "show", lambda *parts: shown.append(parts))
    found = figures.figure_D4("laptop", archive)
    found.show()
    assert shown == [(found.figure, found.alt, found.caption)]
