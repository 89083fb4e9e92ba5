"""The paper's figures, drawn from an archive whose every mean and spread is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.text import Text
from scipy import stats
from synthetic_archive import SEED_SHIFT, STEPS, level, write

import flatlib
from flatlib import bounds, nets
from flatlib.inequalities import COLUMNS
from flatlib.lab import claims, figures
from flatlib.lab.archive import label, read
from flatlib.lab.experiments import EXPERIMENTS
from flatlib.lab.figures import archived, curves, views
from flatlib.lab.figures.inequalities import in_symbols
from flatlib.lab.figures.style import SAMPLES, SETTINGS
from flatlib.lab.verdicts import Verdict

BASE = ((0.1, 20),)
RATES = ((0.05, 20), (0.1, 20), (0.2, 20))
BATCHES = ((0.1, 8), (0.1, 20), (0.1, 32))
ALL = tuple(dict.fromkeys(RATES + BATCHES))
OF_THE_PAPER = ("1", "2", "3", "D.4", "D.5", "D.6", "E.7", "E.8")
GEOMETRIC = 1e-9  # relative, of means and bands read back from the drawing


def whole(settings):
    return [(lr, batch, seed, 60_000) for lr, batch in settings for seed in SEED_SHIFT]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """All settings of three networks, three seeds, whole."""
    figures.use_style()
    folder = tmp_path_factory.mktemp("results")
    for name in ("correlations-vgg10", "correlations-mlp", "correlations-mlp-relu"):
        write(folder, name, whole(ALL))
    return folder


@pytest.fixture(scope="module")
def drawn(archive):
    """Every figure of the paper and every other kind, drawn once."""
    found = {name: figures.reproduce(name, "laptop", archive) for name in OF_THE_PAPER}
    mlp = read("correlations-mlp", "laptop", archive)
    vgg10 = read("correlations-vgg10", "laptop", archive)
    found["within"] = figures.between_and_within(mlp, figures.WITH_BOUNDS)
    found["sensitivity"] = figures.inequalities("sensitivity", mlp)
    found["convolutions"] = figures.inequalities("convolutions", vgg10)
    return found


@pytest.fixture(scope="module")
def dark(drawn):
    """Every figure as a dark page has it; this lays the figures out."""
    return {name: figures.to_svg(found.figure, "dark") for name, found in drawn.items()}


def lines(ax) -> dict:
    return {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}


def marks(ax) -> list:
    return [line for line in ax.lines if line.get_label() == "_fit"]


def band(collection) -> pd.DataFrame:
    """Lower and upper end of a band at each step."""
    path = pd.DataFrame(collection.get_paths()[0].vertices, columns=["step", "value"])
    return path.groupby("step")["value"].agg(["min", "max"])


def known(setting, factor=1.0):
    return factor * (level(*setting) + np.array(STEPS) / 10_000)


@pytest.mark.parametrize(
    ("name", "settings"), [("1", RATES), ("2", BATCHES), ("E.8", RATES), ("E.7", BATCHES)]
)
def test_lines_are_the_known_means_in_the_papers_order(drawn, name, settings):
    found = drawn[name]
    titles = [ax.get_title(loc="left") for ax in found.figure.axes[:8]]
    assert titles == [title for title, _ in archived.PANELS.values()]
    factors = {2: 1.0, 3: -1.0, 4: -0.5, 5: 2.0, 7: 1.0}
    for panel, factor in factors.items():
        shown = lines(found.figure.axes[panel])
        assert len(shown) == 3
        for setting in settings:
            line = shown[label(setting)]
            np.testing.assert_array_equal(line.get_xdata(), STEPS)
            np.testing.assert_allclose(line.get_ydata(), known(setting, factor), rtol=1e-9)


def test_bands_are_one_standard_deviation_to_each_side(drawn):
    found = drawn["1"]
    ends = band(found.figure.axes[2].collections[0])
    for step, mean in zip(STEPS, known(RATES[0]), strict=True):
        assert tuple(ends.loc[step]) == pytest.approx((mean - 1, mean + 1))
    assert (found.numbers["root_sharpness.n"] == 3).all()
    np.testing.assert_allclose(found.numbers["gradient_energy.spread"], 2.0)


def test_what_is_drawn_on_logarithmic_axes_is_geometric_and_above_0(archive):
    runs = read("vgg10-learning-rate", "laptop", archive)
    table = runs.table.copy()
    uneven = table["seed"].map({0: 0, 1: 1, 2: 6})
    table["train_loss"] = 10.0 ** (uneven - table["step"] / 30_000)
    found = figures.through_training(replace(runs, table=table))
    ax = found.figure.axes[0]
    assert ax.get_yscale() == "log"
    own = table[(table["samples"] == "train") & (table["lr"] == 0.05)]
    by_step = own.groupby("step")["train_loss"]
    means, spreads = by_step.agg(stats.gmean), by_step.agg(lambda v: stats.gstd(v, ddof=1))
    line = lines(ax)[label((0.05, 20))]
    np.testing.assert_allclose(line.get_ydata(), means, rtol=GEOMETRIC)
    ends = band(ax.collections[0])
    np.testing.assert_allclose(ends["min"], means / spreads, rtol=GEOMETRIC)
    np.testing.assert_allclose(ends["max"], means * spreads, rtol=GEOMETRIC)
    assert (ends["min"] > 0).all()
    numbers = found.numbers[found.numbers["lr"] == 0.05].set_index("step")
    np.testing.assert_allclose(numbers["train_loss.mean"], means, rtol=GEOMETRIC)
    np.testing.assert_allclose(numbers["train_loss.spread"], spreads, rtol=GEOMETRIC)


def test_a_marker_stands_on_the_curve_where_each_run_has_fitted(archive):
    runs = read("vgg10-learning-rate", "laptop", archive)
    table = runs.table.copy()
    slow, never = (table["lr"] == 0.1) & (table["seed"] == 0), (table["lr"] == 0.2)
    table.loc[slow & (table["step"] < 60_000), "train_accuracy"] = 0.9989
    table.loc[slow & (table["step"] == 60_000), "train_accuracy"] = 0.999
    table.loc[never, "train_accuracy"] = 0.9989
    found = figures.through_training(replace(runs, table=table))
    expected = {(0.05, 20): [30_000], (0.1, 20): [30_000, 60_000], (0.2, 20): []}
    for panel in (0, 2, 5, 7):
        ax = found.figure.axes[panel]
        for mark, (setting, steps) in zip(marks(ax), expected.items(), strict=True):
            curve = lines(ax)[label(setting)]
            at = dict(zip(*curve.get_data(), strict=True))
            assert mark.get_xdata().tolist() == steps
            assert mark.get_ydata().tolist() == [at[step] for step in steps]
            assert mark.get_marker() == SETTINGS[setting].marker
            assert to_hex(mark.get_color()) == to_hex(curve.get_color())
    assert "first reaches training accuracy 0.999, as 6 of 9 runs do" in found.caption


def test_axes_of_accuracy_and_dimensionality_show_what_comes_after_the_start(archive):
    runs = read("vgg10-learning-rate", "laptop", archive)
    table = runs.table.copy()
    start = table["step"] == 0
    table["local_dimensionality"] = (1.1 + 0.05 * table["seed"]).mask(start, 8.0)
    table["test_accuracy"] = (0.95 + 0.002 * table["seed"]).mask(start, 0.0)
    found = figures.through_training(replace(runs, table=table))
    accuracy, dimensionality = found.figure.axes[1], found.figure.axes[6]
    for ax, low, high in ((accuracy, 0.952, 0.002), (dimensionality, 1.15, 0.05)):
        bottom, top = ax.get_ylim()
        assert bottom <= low - high and top >= low + high, "the bands are cut"
        assert top - bottom < 2.5 * high, "changes of this size hardly show"
    assert "axis of test accuracy and local dimensionality is fitted to what follows" in (
        found.caption
    )


def test_a_setting_has_one_colour_in_every_figure(drawn):
    seen = {setting: set() for setting in ALL}
    for name in ("1", "2", "E.7", "E.8"):
        for ax in drawn[name].figure.axes[:8]:
            for shown, line in lines(ax).items():
                (setting,) = [each for each in ALL if label(each) == shown]
                seen[setting].add((to_hex(line.get_color()), str(line.get_linestyle())))
    assert all(len(looks) == 1 for looks in seen.values())
    assert len(set().union(*seen.values())) == len(ALL), "two settings look alike"
    colors = {setting: color for setting, ((color, _),) in seen.items()}
    for name in ("D.5", "D.6"):
        legend = drawn[name].figure.legends[0]
        for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True):
            (setting,) = [each for each in ALL if label(each) == text.get_text()]
            assert to_hex(handle.get_color()) == colors[setting]
    at_setting = [line for ax in drawn["sensitivity"].figure.axes for line in ax.lines]
    assert colors[0.1, 20] in {to_hex(line.get_color()) for line in at_setting}


def test_terms_of_the_chain_differ_in_colour_and_line(drawn):
    chain = lines(drawn["D.4"].figure.axes[0]).values()
    assert len({to_hex(line.get_color()) for line in chain}) == 5
    assert (
        len({(line._dash_pattern[1] or ()) and tuple(line._dash_pattern[1]) for line in chain}) == 5
    )


def test_no_text_is_below_7_points_or_outside_its_figure(drawn, dark):
    for name, found in drawn.items():
        for text in found.figure.findobj(Text):
            if text.get_visible() and text.get_text().strip():
                assert text.get_fontsize() >= 7, (name, text.get_text())
        whole = found.figure.bbox
        for ax in found.figure.axes:
            for text in (ax._left_title, ax.title, *ax.texts):
                if text.get_text():
                    box = text.get_window_extent()
                    assert box.x0 >= whole.x0 - 1 and box.x1 <= whole.x1 + 1, (name, text)


def test_titles_do_not_run_into_each_other(drawn, dark):
    for name, found in drawn.items():
        titles = [ax._left_title for ax in found.figure.axes if ax.get_title(loc="left")]
        boxes = [title.get_window_extent() for title in titles]
        for i, box in enumerate(boxes):
            assert not box.count_overlaps(boxes[:i]), (name, titles[i].get_text())


def test_figure_3_keeps_misclassified_samples_apart(drawn):
    found = drawn["3"]
    sharpness, loss, wrong = found.figure.axes[2], found.figure.axes[1], found.figure.axes[7]
    for samples, extra in (("train", 0), ("test", 1), ("misclassified", 2)):
        line = lines(sharpness)[f"{samples} samples"]
        np.testing.assert_allclose(line.get_ydata(), known((0.1, 20)) + extra)
        assert to_hex(line.get_color()) == figures.COLORS[SAMPLES[samples].color]
    assert set(lines(loss)) == {"test samples", "misclassified samples"}
    values = 0.1 * (known((0.1, 20)) + np.array([[-1.0], [0.0], [1.0]]))
    np.testing.assert_allclose(lines(loss)["test samples"].get_ydata(), stats.gmean(values))
    np.testing.assert_allclose(lines(loss)["misclassified samples"].get_ydata(), 2.5)
    assert list(lines(wrong)) == ["misclassified samples"]
    # A tenth of the 100 test images are wrong, of which 7 are measured.
    np.testing.assert_allclose(lines(wrong)["misclassified samples"].get_ydata(), 10)
    assert found.caption.endswith("7 to 7 were measured at a checkpoint.")


def test_figure_d4_shows_the_chain_and_its_gaps(drawn):
    chain, gaps = (lines(ax) for ax in drawn["D.4"].figure.axes)
    values = stats.gmean(known((0.1, 20)) + np.array([[-1.0], [0.0], [1.0]]))
    for name, factor in {"A": 1, "B": 2, "C": 3, "C'": 2.5, "D": 12}.items():
        np.testing.assert_allclose(chain[f"${name}$"].get_ydata(), factor * values)
    for name, factor in {"$B/A$": 2, "$C/B$": 1.5, "$D/C$": 4}.items():
        np.testing.assert_allclose(gaps[name].get_ydata(), factor)


def two_digits(value):
    return f"{value:.2f}".replace("-", "−").replace("0.", ".", 1)


def test_the_matrix_prints_the_correlation_between_settings_and_the_pooled_one_in_grey(archive):
    runs = read("correlations-vgg10", "laptop", archive)
    noise = np.random.default_rng(3)
    metrics = {name: name for name in ("root_sharpness", "mls", "test_loss", "log_volume")}
    table = runs.table.assign(**{name: noise.normal(size=len(runs.table)) for name in metrics})
    found = figures.correlations(replace(runs, table=table), metrics)
    rows, _, _ = found.runs.at_one_step()
    means = rows.groupby(["lr", "batch_size"])[list(metrics)].mean()
    axes = np.array(found.figure.axes).reshape(4, 4)
    for i, first in enumerate(metrics):
        for j, second in enumerate(list(metrics)[:i]):
            between, pooled = (each[second].corr(each[first]) for each in (means, rows))
            half = 1.959963984540054 / math.sqrt(len(means) - 3)
            ends = np.tanh(np.arctanh(between) + np.array([-half, half]))
            top, interval, grey = axes[j, i].texts
            assert two_digits(between) != two_digits(pooled), "this pair decides nothing"
            assert top.get_text() == two_digits(between)
            assert interval.get_text() == " to ".join(map(two_digits, ends))
            assert grey.get_text() == two_digits(pooled)
            assert grey.get_color() == figures.COLORS["muted"] != top.get_color()
            assert (top.get_fontweight() == "bold") == (ends[0] > 0 or ends[1] < 0)


@pytest.mark.parametrize("name", ["D.5", "D.6"])
def test_the_matrix_has_ticks_on_the_left_and_below(drawn, name):
    count = 9 if name == "D.6" else 7
    axes = np.array(drawn[name].figure.axes).reshape(count, count)
    assert all(tick.get_text() for ax in axes[-1, :-1] for tick in ax.get_xticklabels()[1:-1])
    assert all(len(ax.get_yticks()) >= 2 for ax in axes[1:, 0])


def test_the_matrix_regresses_over_the_means_of_the_settings(drawn):
    found = drawn["D.5"]
    rows, _, _ = found.runs.at_one_step()
    means = rows.groupby(["lr", "batch_size"])[["root_sharpness", "mls"]].mean()
    ax = found.figure.axes[7 * 5 + 1]  # MLS over √S
    (line,) = ax.lines
    slope, intercept = np.polyfit(means["root_sharpness"], means["mls"], 1)
    np.testing.assert_allclose(line.get_ydata(), slope * line.get_xdata() + intercept)
    networks, large = ax.collections[0].get_offsets(), ax.collections[-1].get_offsets()
    expected = rows[["root_sharpness", "mls"]].to_numpy()
    np.testing.assert_allclose(np.sort(networks, axis=0), np.sort(expected, axis=0))
    np.testing.assert_allclose(np.sort(large, axis=0), np.sort(means, axis=0))


def test_heat_maps_show_both_kinds_of_correlation(drawn):
    found = drawn["within"]
    pair = found.numbers.set_index(["first", "second"])
    names = list(figures.WITH_BOUNDS)
    for ax, column in zip(found.figure.axes, ("between", "within"), strict=True):
        texts = [text.get_text() for text in ax.texts]
        expected = [
            two_digits(pair.loc[(first, second), column])
            for i, second in enumerate(names)
            for first in names[:i]
            if not math.isnan(pair.loc[(first, second), column])
        ]
        assert [text for text in texts if text != "–"] == expected


@pytest.mark.parametrize("name", ["D.5", "D.6"])
def test_correlations_are_numpys_over_all_networks(drawn, name):
    found = drawn[name]
    rows, step, out = found.runs.at_one_step()
    assert (len(rows), step, out) == (15, 60_000, [])
    metrics = 9 if name == "D.6" else 7
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
    two = {"root_sharpness": "√S", "mls": "MLS"}
    found = figures.correlations(read("correlations-mlp", "laptop", tmp_path), two)
    assert "10 networks at step 30,000" in found.caption
    assert "Left out, too short or diverged: mlp_fashion-mnist-first-2000_lr0.1_batch8_seed0." in (
        found.caption
    )
    assert (found.numbers["n"] == 10).all()


def test_both_sides_and_gaps_of_inequalities(archive):
    runs = read("correlations-mlp", "laptop", archive)
    found = figures.inequalities("sensitivity", runs)
    at = found.numbers.set_index(["key", "step"])
    value = dict(zip(STEPS, known((0.1, 20)), strict=True))
    for step in STEPS:
        middle = stats.gmean([value[step] - 1, value[step], value[step] + 1])
        assert at.loc[("25", step), "left.mean"] == pytest.approx(middle)
        assert at.loc[("25", step), "right.mean"] == pytest.approx(2 * middle)
        assert at.loc[("25", step), "gap.mean"] == pytest.approx(value[step])
        assert at.loc[("25", step), "decades.mean"] == pytest.approx(np.log10(2))
    assert at.loc[("13", 60_000), "decades.mean"] == pytest.approx(-1)
    titles = [ax.get_title(loc="left") for ax in found.figure.axes]
    assert [title for title in titles if title] == ["(25):\n$A\\leq B$", "(13):\n$A\\leq D$"]


def test_gaps_between_logarithms_are_differences(archive):
    runs = read("correlations-mlp", "laptop", archive)
    numbers = figures.inequalities("volume", runs).numbers
    np.testing.assert_allclose(numbers["gap.mean"], np.log(10))
    np.testing.assert_allclose(numbers["decades.mean"], 1)


def test_an_infinite_right_side_is_said_and_not_drawn(archive):
    runs = read("correlations-vgg10", "laptop", archive)
    found = figures.inequalities("convolutions", runs)
    top, low = found.figure.axes
    assert "not proven here" in top.get_title(loc="left")
    assert set(lines(top)) == {"left side"}
    assert "infinite" in low.texts[0].get_text()
    assert "Not drawn, infinite" in found.caption


def test_the_table_counts_where_an_inequality_held(archive):
    runs = read("correlations-mlp", "laptop", archive)
    table = figures.inequality_table(runs).set_index("key")
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
        figures.inequalities(group, runs)


def test_a_setting_without_runs_has_no_inequalities(tmp_path):
    write(tmp_path, "mlp-bounds", [(0.1, 20, 0, 60_000)])
    runs = read("correlations-mlp", "laptop", tmp_path)
    with pytest.raises(ValueError, match="no run of correlations-mlp .* lr 0.2, batch 20"):
        figures.inequalities("sensitivity", runs, (0.2, 20))


def test_figures_of_a_partial_archive_draw_what_is_there(tmp_path):
    write(tmp_path, "mlp-batch-size", [(0.1, 20, 0, 60_000), (0.1, 8, 1, 30_000)])
    found = figures.reproduce("E.7, tanh", "laptop", tmp_path)
    drawn = lines(found.figure.axes[2])
    assert set(drawn) == {"lr 0.1, batch 8", "lr 0.1, batch 20"}
    assert len(drawn["lr 0.1, batch 8"].get_xdata()) == 2
    assert not found.figure.axes[2].collections
    assert "Each line is one seed" in found.caption
    assert "Missing, no run archived: lr 0.1, batch 32." in found.caption


@pytest.mark.parametrize("name", OF_THE_PAPER)
def test_every_figure_has_words_and_colours_for_both_themes(drawn, dark, name):
    found = drawn[name]
    assert not [color for color, (light, _) in figures.PAIRS.items() if light in dark[name]]
    assert found.alt
    assert "nan" not in found.alt


@pytest.mark.parametrize("name", OF_THE_PAPER)
def test_a_caption_says_once_what_the_paper_ran_and_what_we_ran(drawn, name):
    caption = drawn[name].caption
    paper, _, here = caption.partition(" Here: ")
    assert paper == f"Paper: Figure {name}, {archived.FIGURES[name].shows}."
    network = "VGG10 on CIFAR-10" if name in ("1", "2", "3", "D.5") else "MLP 784-500-500-500-10"
    assert here.startswith(network)
    assert here.count("seeds 0 to 2") == here.count("laptop scale") == 1
    assert here.count("60,000 steps") == 1
    assert "ours" in here


def test_a_figure_of_inequalities_explains_its_titles(archive):
    runs = read("correlations-mlp", "laptop", archive)
    key = {"label": "12", "name": "log mean volume by log mean of ||grad_x f||_F^N / N^(N/2)"}
    manifest = runs.manifests[0] | {"bounds": {"12.1": key | {"proven": False}}}
    table = runs.table.assign(**{"lhs_12.1": 2.0, "rhs_12.1": 3.0})
    found = figures.inequalities("volume", replace(runs, manifests=(manifest,), table=table))
    top, low = found.figure.axes
    assert top.get_title(loc="left") == (
        "(12), part 1, not proven here:\nlog mean volume\n"
        r"by log mean of $\Vert\nabla_x f\Vert_F^N$ / $N^{N/2}$"
    )
    assert "Part 1 of (12) is the inequality that the tables call 12.1." in found.caption
    # Both sides are above 0, and logarithms all the same.
    assert top.get_yscale() == low.get_yscale() == "linear"
    np.testing.assert_allclose(lines(low)["gap"].get_ydata(), 1 / math.log(10))


def test_the_longest_title_of_an_inequality_fits_into_its_figure(archive):
    runs = read("correlations-mlp", "laptop", archive)
    keys = ("5.1", "5.2", "7.2")
    bounds_there = {
        key: {"label": COLUMNS[key].label, "name": COLUMNS[key].step.name, "proven": False}
        for key in keys
    }
    sides = {f"{side}_{key}": 2.0 for key in keys for side in ("lhs", "rhs")}
    runs = replace(
        runs,
        manifests=(runs.manifests[0] | {"bounds": bounds_there},),
        table=runs.table.assign(**sides),
    )
    figure = figures.inequalities("weights to inputs", runs).figure
    figures.to_svg(figure)  # lays it out
    titles = [ax._left_title for ax in figure.axes if ax.get_title(loc="left")]
    assert len(titles) == len(keys)
    for title in titles:
        assert "not proven here" in title.get_text()
        assert title.get_window_extent().x1 <= figure.bbox.x1, title.get_text()


def test_no_recorded_name_shows_markup():
    dense = flatlib.measure(nets.mlp((3, 4, 2)), torch.ones(1, 3))
    small = nets.vgg10(in_channels=1)
    convolutional = flatlib.measure(small, torch.rand(1, 1, 32, 32))
    names = {bound.name for m in (dense, convolutional) for bound in bounds.evaluate(m)}
    assert len(names) > 20
    for name in names:
        plain = "".join(in_symbols(name).split("$")[::2])
        assert not set(plain) & set("_^|<>'"), plain
        assert "grad" not in plain and "delta" not in plain


@pytest.mark.parametrize("name", ["E.8", "E.8, tanh"])
def test_either_activation_is_drawn(archive, name):
    found = figures.reproduce(name, "laptop", archive)
    assert ("tanh" in name) == ("tanh" in found.caption)
    assert ("ReLU" in found.caption) == (name == "E.8")
    assert found.caption.startswith("Paper: Figure E.8, ")


def test_every_experiment_has_its_figure():
    for experiment in EXPERIMENTS.values():
        assert experiment.figure.split(",")[0] in archived.FIGURES
    assert len({experiment.figure for experiment in EXPERIMENTS.values()}) == len(EXPERIMENTS)


def test_an_unknown_figure_is_refused(archive):
    with pytest.raises(ValueError, match=r"figure must be one of 1; 2; 3; .* got 'E.9'"):
        figures.reproduce("E.9", "laptop", archive)


def test_the_largest_archived_scale_is_drawn_and_said(archive):
    found = figures.reproduce("1", "paper", archive)
    assert found.runs.scale == "laptop"
    assert "No run at paper scale is archived, so this is the laptop scale." in found.caption


def test_a_verdict_leads_to_the_runs_that_decided_it():
    """Network, scale, settings and samples of the claim; a claim without runs leads nowhere."""
    by_key = {claim.key: claim for claim in claims.CLAIMS}
    paper, laptop = "paper_vgg10_cifar10-0-1", "laptop_mlp-relu_fashion-mnist-first-2000"
    found = views.views_of_verdicts(
        [
            Verdict(by_key["vgg10.misclassified.mls"], scale="paper"),
            Verdict(by_key["relu.rate-step.mls"], scale="laptop"),
            Verdict(by_key["relu.chain.lead_as_factor"], scale="laptop"),
            Verdict(by_key["relu.rate-step.D"]),
        ]
    )
    both = ("test", "misclassified")
    every = EXPERIMENTS["correlations-mlp-relu"].settings
    assert found == {
        "MLS, VGG10, misclassified images, paper scale": views.View(paper, "mls", BASE, both),
        "MLS, ReLU, laptop scale": views.View(laptop, "mls", RATES),
        "D/C, ReLU, laptop scale": views.View(laptop, "D/C", every),
    }
    alone = views.views_of_verdicts([Verdict(by_key["relu.rate-step.mls"], scale="laptop")])
    assert list(alone) == ["MLS"]


def test_a_figure_of_smoke_runs_leads_to_the_long_runs(archive, monkeypatch):
    monkeypatch.setenv("FLATLIB_RESULTS", str(archive))
    runs = replace(read("mlp-bounds", "laptop", archive), scale="smoke")
    (view,) = views.views(runs, {"mls": "MLS"}).values()
    assert view == views.View("laptop_mlp_fashion-mnist-first-2000", "mls", BASE)
    monkeypatch.setenv("FLATLIB_RESULTS", str(archive / "nowhere"))
    assert views.views(runs, {"mls": "MLS"}) == {}


def test_quantities_that_one_set_of_samples_has_are_looked_at_there(drawn):
    found = drawn["3"].views
    assert found["test loss"].samples == ("test",)
    assert found["misclassified test images"].samples == ("misclassified",)
    assert found["sharpness √S, Eq. (3)"].samples == ("train", "test", "misclassified")


def test_a_notebook_shows_figure_words_and_caption(drawn, monkeypatch):
    shown = []
    monkeypatch.setattr(curves, "show", lambda *parts, **words: shown.append((parts, words)))
    found = drawn["D.4"]
    found.show(number="11.8", says="The chain.")
    words = {"stamp": found.caption, "caption": "The chain.", "number": "11.8"}
    words["views"] = {title: view.address for title, view in found.views.items()}
    assert list(words["views"]) == ["A", "B", "C", "C'", "D", "B/A", "C/B", "D/C"]
    assert shown == [((found.figure, found.alt), words)]
