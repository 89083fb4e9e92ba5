"""The pictures that a reader moves show the library's numbers, and every reader can read them."""

from __future__ import annotations

import functools
import math
import re
import shutil
from pathlib import Path
from urllib.parse import parse_qs

import archive_data
import explorable_stills
import explorables
import numpy as np
import pytest
import torch
from browsing import FOLLOW, JUDGE, Reader
from playwright.sync_api import expect
from sphinx.cmd.build import build_main

import flatlib
from flatlib import bounds, comparisons, sharpness, toys
from flatlib.lab import archive, commands, experiments, figures
from flatlib.lab.figures.views import View

ROOT = Path(__file__).resolve().parents[1]
STATIC = ROOT / "book" / "_static"
NAMES = list(explorable_stills.MAKERS)
SENTENCE = "A sentence for paper."
# The book's own files and those of the explorables; other folders have extensions of their own.
LOADED = [path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*")]
LOADED = [name for name in LOADED if "/" not in name or name.startswith("explorables/")]
CONFIG = f"""
extensions = ["myst_parser", "explorables", "light_pages", "offline_site"]
html_theme = "sphinx_book_theme"
html_static_path = [{str(STATIC)!r}]
html_css_files = {[name for name in LOADED if name.endswith(".css")]}
html_js_files = {[name for name in LOADED if name.endswith(".js")]}
"""
PAUSE = 400  # milliseconds after which the state is said
LARGEST_SCRIPTS = 60_000  # bytes of an explorable, with what all share


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Builds pages in the book's theme; gives the exit status and the folder of the site."""

    def run(pages: dict[str, str]) -> tuple[int, Path]:
        folder = tmp_path_factory.mktemp("explorables")
        (folder / "_vendor" / "mathjax").mkdir(parents=True)
        (folder / "conf.py").write_text(CONFIG)
        for name, text in {"index": "A front.", **pages}.items():
            (folder / f"{name}.md").write_text(f"---\norphan: true\n---\n\n# Title\n\n{text}\n")
        arguments = ["-q", "-E", "-W", "--keep-going", "-b", "html"]
        return build_main([*arguments, str(folder), str(folder / "html")]), folder / "html"

    return run


def directive(name: str, sentence: str = SENTENCE) -> str:
    return f"```{{explorable}} {name}\n{sentence}\n```"


RELU = "mlp-relu_fashion-mnist-first-2000_lr"
ARCHIVED = {  # a few of the archived runs
    "laptop": [f"{RELU}{rate}_batch20_seed{seed}" for rate in (0.05, 0.2) for seed in (0, 1)],
    "paper": [f"vgg10_cifar10-0-1_lr0.1_batch20_seed{seed}" for seed in (0, 1)],
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """An archive of a few real runs, which the pages are built from."""
    folder = tmp_path_factory.mktemp("results")
    for scale, runs in ARCHIVED.items():
        for run in runs:
            source = ROOT / "results" / scale / run
            shutil.copytree(source, folder / scale / run, ignore=shutil.ignore_patterns("*.npz"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLATLIB_RESULTS", str(folder))
        explorable_stills.archived.cache_clear()
        yield folder
        explorable_stills.archived.cache_clear()


@pytest.fixture(scope="module")
def site(build, results) -> Path:
    """One page for each explorable, and one without."""
    status, folder = build({name: directive(name) for name in NAMES})
    assert status == 0
    return folder


@pytest.fixture
def open_page(browser, site):
    """Opens the page of an explorable, whose clock the test turns, and hears what goes wrong."""
    readers = []

    def run(name: str, width: int = 1200, **media):
        readers.append(Reader(browser, site.as_uri() + "/", width))
        readers[-1].page.clock.install(time=0)
        readers[-1].page.emulate_media(**media)
        page = readers[-1].open(f"{name}.html")
        expect(page.locator(".explorable-live svg path").first).to_be_attached()
        page.clock.pause_at(3_600_000)
        return page

    yield run
    for reader in readers:
        reader.close()


def three(value: float) -> str:
    """Three significant digits, as the pages write them: 0.125, 4.00, 594, 5,530."""
    value = float(f"{value:.2e}")
    if value == 0:
        return "0.00"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}".replace("-", "−")


def set_slider(page, slider: str, value: float) -> None:
    page.locator(f"#{slider}").evaluate(
        "(box, value) => { box.value = value; box.dispatchEvent(new Event('input')); }", value
    )


def shown(page) -> dict[str, str]:
    return page.locator("[data-now]").evaluate_all(
        "cells => Object.fromEntries(cells.map(cell => [cell.dataset.now, cell.textContent]))"
    )


def rescaled(value: float) -> dict[str, float]:
    """What the library says of the rescaled example, at the slider's value."""
    net, x, y = toys.running_example()
    c = 2**value
    twin = toys.rescaled(net, (c, 1 / c))
    m = flatlib.measure(twin, x)
    chain = bounds.chain(m)
    assert math.isclose(flatlib.hessian_trace(twin, x, y).estimate, m.sharpness, rel_tol=1e-9)
    return {
        "norm_1": m.layers[0].weight_norm,
        "norm_2": m.layers[1].weight_norm,
        "S": m.sharpness,
        **{name: getattr(chain, name) for name in "ABCD"},
        "relative_sharpness": bounds.relative_sharpness(m),
        "relative_flatness": comparisons.relative_flatness(twin, x, y),
        "adaptive": sharpness.adaptive_sharpness(twin, x),
    }


def read_off(net, x) -> dict[str, float]:
    m = flatlib.measure(net, x[:1])
    return {
        "mls": m.mls.item(),
        "G": m.gradient_energy.item(),
        "volume": m.log_volume.exp().item(),
        "dimensionality": m.local_dimensionality.item(),
    }


def stretched(first: float, second: float) -> dict[str, float]:
    """What the library says of a network with these singular values."""
    net = toys.with_singular_values([first, second], inputs=2)
    return read_off(net, torch.ones(1, 2))


@functools.cache
def trained() -> list[dict[str, float]]:
    """What the library says of the network in training, at each step that is shown."""
    return [read_off(net, x) for _, _, net, x in explorable_stills.training()]


def staircase(network: float, share: float) -> dict[str, float]:
    """What the library says of a network of the staircase, at the slider's value."""
    net = list(explorable_stills.staircase_networks().values())[network]
    x = explorable_stills.staircase_inputs(explorable_stills.WIDEST**share)
    chain = bounds.chain(flatlib.measure(net, x))
    terms = {name: getattr(chain, name) for name in "ABCD"}
    return terms | {f"{high}/{low}": terms[high] / terms[low] for low, high in ("AB", "BC", "CD")}


def in_the_valley(start: float, noise: float, step: int) -> dict[str, float]:
    """What the library says of the network in the valley after some steps."""
    w = explorable_stills.descended(start, noise)[step]
    net = toys.from_weights([torch.tensor([[each]]) for each in w])
    one = torch.ones(1, 1, dtype=torch.float64)
    S = flatlib.measure(net, one).sharpness
    trace = flatlib.hessian_trace(net, one, net(one).detach()).estimate
    assert math.isclose(trace, S, rel_tol=1e-9)
    return {
        **{"start": start, "noise": noise, "w_1": w[0], "w_2": w[1], "product": net(one).item()},
        **{"S": S, "imbalance": w[0] ** 2 - w[1] ** 2},
    }


FACTORS = (-2, -1.45, -1, -0.5, -0.05, 0, 0.3, 0.75, 1.3, 2)  # logarithms to the base 2
PAIRS = ((3, 3), (3, 0), (0.05, 0), (1, 1), (2.85, 1.4), (0.5, 2.5), (0.05, 3), (1.35, 0.15))
FRAMES = (0, 3, 9, 17, 24, 36, -1)
STAIRS = [(network, share) for network in range(5) for share in (0, 0.35, 1)]
WALKS = (
    *((2.5, 0.5, step) for step in (0, 10, 150, 700, 1_500)),
    *((2.5, 1.0, step) for step in (100, 1_490)),
    *((0.4, 0.3, step) for step in (0, 400)),
    *((1.2, 0.7, step) for step in (20, 900)),
    (1.7, 0.0, 1_500),
)
# What the reader moves in each explorable, and what the library says of it there.
SETTINGS = {
    "rescaling": [({"rescaling-factor": value}, rescaled, (value,)) for value in FACTORS],
    "disc": [
        *(({"disc-first": s, "disc-second": t}, stretched, (s, t)) for s, t in PAIRS),
        *(
            ({"disc-step": frame % len(explorable_stills.STEPS)}, lambda i: trained()[i], (frame,))
            for frame in FRAMES
        ),
    ],
    "staircase": [
        ({"staircase-network": network, "staircase-spread": share}, staircase, (network, share))
        for network, share in STAIRS
    ],
    "valley": [
        (
            {"valley-start": start, "valley-noise": noise, "valley-step": step},
            in_the_valley,
            (start, noise, step),
        )
        for start, noise, step in WALKS
    ],
}


# The archive's numbers have a test of their own.
STEPS = tuple({"archive-step": step} for step in (0, 3, 9, 17, 24, 30, 36, 44, 53, 61))
SETTINGS["archive"] = [(sliders, None, ()) for sliders in STEPS]
OF_NETWORKS = [name for name in NAMES if name != "archive"]


@pytest.mark.parametrize("name", OF_NETWORKS)
def test_the_numbers_are_the_librarys_to_three_digits_at_ten_settings(open_page, name):
    page = open_page(name)
    assert len(SETTINGS[name]) >= 10
    seen = set()
    for sliders, oracle, arguments in SETTINGS[name]:
        for slider, value in sliders.items():
            set_slider(page, slider, value)
        found = shown(page)
        expected = {key: three(value) for key, value in oracle(*arguments).items()}
        assert found == expected, sliders
        seen.add(tuple(found.values()))
    assert len(seen) == len(SETTINGS[name])


def test_what_rescaling_leaves_alone_stands_still(open_page):
    page = open_page("rescaling")
    before = shown(page)
    set_slider(page, "rescaling-factor", 2)
    moved = {key for key, value in shown(page).items() if value != before[key]}
    assert moved == {"norm_1", "norm_2", "S", "D"}


def test_the_disc_begins_with_the_example_and_goes_back(open_page):
    page = open_page("disc")
    net, x, _ = toys.running_example()
    example = {name: three(value) for name, value in read_off(net, x).items()}
    assert shown(page) == example
    set_slider(page, "disc-second", 0.3)
    assert shown(page) != example
    page.get_by_role("button", name="Running example").click()
    assert shown(page) == example


PLAYED = {"disc": ("disc-step", 1), "valley": ("valley-step", 10)}  # a slider, moved by a button


def places(page, slider: str, seconds: int) -> list[int]:
    """Where a slider is ten times a second, on the page's own clock, until it is at its end."""
    box, found = page.locator(f"#{slider}"), []
    last = int(box.get_attribute("max"))
    while len(found) < 10 * seconds and last not in found:
        page.clock.run_for(100)
        found.append(int(box.input_value()))
    return found


@pytest.mark.parametrize("name", PLAYED)
def test_play_goes_on_ten_times_a_second_to_the_end(open_page, name):
    page = open_page(name, reduced_motion="no-preference")
    slider, unit = PLAYED[name]
    last = int(page.locator(f"#{slider}").get_attribute("max"))
    page.get_by_role("button", name="Play").press("Enter")
    assert places(page, slider, seconds=20) == list(range(unit, last + 1, unit))


@pytest.mark.parametrize("name", PLAYED)
def test_play_pauses_where_it_is_told_to(open_page, name):
    page = open_page(name, reduced_motion="no-preference")
    slider, unit = PLAYED[name]
    page.get_by_role("button", name="Play").click()
    page.clock.run_for(2000)
    page.get_by_role("button", name="Pause").click()
    assert set(places(page, slider, seconds=1)) == {20 * unit}


def test_who_asked_for_less_motion_sees_a_still_a_second(open_page):
    page = open_page("disc", reduced_motion="reduce")
    last = int(page.locator("#disc-step").get_attribute("max"))
    page.get_by_role("button", name="Play").press("Enter")
    found = places(page, "disc-step", seconds=20)
    stills = list(dict.fromkeys(found))
    assert stills[0] == 0 and stills[-1] == last and 8 <= len(stills) - 1 <= 10
    assert [found.count(still) for still in stills] == [9, *[10] * (len(stills) - 2), 1]


def test_who_asked_for_less_motion_steps_down_the_valley_by_hand(open_page):
    page = open_page("valley", reduced_motion="reduce")
    assert page.get_by_role("button", name="Play").count() == 0
    for step in range(150, 1_501, 150):
        page.get_by_role("button", name="150 steps on").press("Enter")
        assert set(places(page, "valley-step", seconds=1)) == {step}
    page.emulate_media(reduced_motion="no-preference")
    expect(page.get_by_role("button", name="Play descent")).to_be_visible()


def test_less_motion_counts_from_when_it_is_asked_for(open_page):
    page = open_page("disc", reduced_motion="no-preference")
    page.get_by_role("button", name="Play").click()
    page.clock.run_for(500)
    page.emulate_media(reduced_motion="reduce")
    expect(page.get_by_role("button", name="Pause")).to_be_hidden()
    assert set(places(page, "disc-step", seconds=1)) == {5}
    page.get_by_role("button", name="Play").click()
    assert set(places(page, "disc-step", seconds=1)[:9]) == {5}


def test_the_staircase_says_which_step_costs_most(open_page):
    """Its weights decide, and for the running example the lengths of the inputs as well."""
    page = open_page("staircase")
    for (network, share), said in {
        (0, 0): "With inputs of one length: The step from C to D costs most",
        (0, 1): "The step from B to C costs most",
        (1, 0): "The step from C to D costs most",
        (2, 0): "Free: A to B, B to C.",
        (3, 0): "The step from A to B costs most, a factor of 2.00",
    }.items():
        set_slider(page, "staircase-network", network)
        set_slider(page, "staircase-spread", share)
        page.clock.run_for(PAUSE)
        assert said in page.locator("[role=status]").text_content()


@pytest.mark.parametrize("name", NAMES)
def test_the_keyboard_moves_each_slider_and_the_state_is_said(open_page, name):
    page = open_page(name, reduced_motion="reduce")
    status = page.locator(f"#explorable-{name} [role=status]")
    for slider in page.locator("input[type=range]").all():
        assert page.locator(f"label[for={slider.get_attribute('id')}]").inner_text().strip()
        slider.focus()
        for key in ("Home", "ArrowRight", "End"):
            told, numbers = status.text_content(), shown(page)
            page.keyboard.press(key)
            page.clock.run_for(PAUSE)
            assert (status.text_content() != told) == (shown(page) != numbers)
        assert slider.input_value() == slider.get_attribute("max")
        assert re.search(r"\d", slider.get_attribute("aria-valuetext"))


@pytest.mark.parametrize("name", NAMES)
def test_a_finger_moves_each_slider(browser, site, name):
    context = browser.new_context(has_touch=True, viewport={"width": 390, "height": 900})
    page = context.new_page()
    page.goto(f"{site.as_uri()}/{name}.html")
    for slider in page.locator("input[type=range]").all():
        slider.scroll_into_view_if_needed()
        box, before = slider.bounding_box(), slider.input_value()
        assert box["height"] >= 24  # what a finger hits
        page.touchscreen.tap(box["x"] + 0.85 * box["width"], box["y"] + box["height"] / 2)
        assert slider.input_value() != before
    context.close()


def only_the_still(page) -> bool:
    """Whether the still picture and the sentence are seen, and nothing that moves."""
    seen = page.locator(".explorable-still img.only-light").is_visible()
    live = page.locator(".explorable-live")
    sentence = page.get_by_text(SENTENCE).is_visible()
    return seen and sentence and not (live.count() and live.is_visible())


@pytest.mark.parametrize("name", NAMES)
def test_the_still_is_on_paper_and_for_who_has_no_scripts(browser, site, open_page, name):
    page = open_page(name)
    assert not only_the_still(page)
    assert page.locator(".explorable-live svg").first.is_visible()
    page.emulate_media(media="print")
    assert only_the_still(page)
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site.as_uri()}/{name}.html")
    assert only_the_still(page)
    context.close()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_moves_by_itself_and_colors_follow_the_reader(open_page, name):
    page = open_page(name, color_scheme="dark", reduced_motion="no-preference")
    picture = page.locator(".explorable-live svg").last
    before = picture.inner_html()
    page.clock.run_for(5000)
    assert picture.inner_html() == before
    # The theme fades its own buttons in; of the explorable nothing moves.
    moving = "document.querySelector('.explorable').getAnimations({subtree: true}).length"
    assert page.evaluate(moving) == 0
    for theme, shade in (("dark", 1), ("light", 0)):
        page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
        color = page.evaluate(
            "getComputedStyle(document.querySelector('.explorable')).getPropertyValue('--blue')"
        )
        assert color == figures.PAIRS["blue"][shade]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_shifts_while_a_slider_moves(open_page, name):
    page = open_page(name)
    for width in (1200, 390):
        page.set_viewport_size({"width": width, "height": 900})
        sizes = set()
        for sliders, _, _ in SETTINGS[name]:
            for slider, value in sliders.items():
                set_slider(page, slider, value)
            page.clock.run_for(PAUSE)
            sizes.add(
                page.evaluate(
                    "JSON.stringify([...document.querySelectorAll('.explorable-live, "
                    ".explorable-live :is(svg, input, table, td)')].map(box => "
                    "[box.getBoundingClientRect()].map(b => [b.x, b.y, b.width, b.height])))"
                )
            )
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert len(sizes) == 1


@pytest.mark.parametrize("name", NAMES)
def test_no_reader_is_shut_out(open_page, name):
    """axe-core finds nothing serious, in light and in dark colours."""
    from axe_playwright_python.base import AXE_FILE_PATH

    page = open_page(name)
    page.clock.resume()  # axe waits for timers of its own
    page.evaluate(AXE_FILE_PATH.read_text(encoding="utf-8"))
    where = {"include": [[f"#explorable-{name}"]]}
    _, faults = page.evaluate(JUDGE, [where, {}, 9])
    assert not [fault for fault in faults if "explorable" in fault or "svg" in fault], faults


@pytest.mark.parametrize("name", NAMES)
def test_the_scripts_are_small_and_only_where_they_are_needed(site, name):
    loaded = re.findall(r'src="_static/(explorables/[^"?]*)', (site / f"{name}.html").read_text())
    assert loaded == ["explorables/explorable.js", f"explorables/{name}.js"]
    assert sum((STATIC / script).stat().st_size for script in loaded) < LARGEST_SCRIPTS
    assert "explorables/" not in (site / "index.html").read_text()


RELU_RUNS, VGG_RUNS = "laptop_mlp-relu_fashion-mnist-first-2000", "paper_vgg10_cifar10-0-1"
SLOW, FAST, BASE = (0.05, 20), (0.2, 20), (0.1, 20)
# What is drawn, and at which checkpoint it is read.
READINGS = [
    (View(RELU_RUNS, "root_sharpness", (SLOW, FAST)), 0),
    (View(RELU_RUNS, "mls", (SLOW, FAST), ("train", "test")), 1_250),
    (View(RELU_RUNS, "log_volume", (FAST,), ("misclassified",)), 25_000),
    (View(RELU_RUNS, "train_loss", (SLOW, FAST)), 60_000),
    (View(RELU_RUNS, "test_accuracy", (SLOW,), ("test",)), 8_750),
    (View(RELU_RUNS, "D/C", (SLOW, FAST)), 33_750),
    (View(RELU_RUNS, "gap of 13", (SLOW, FAST)), 60_000),
    (View(RELU_RUNS, "n_wrong", (SLOW,), ("misclassified",)), 50_000),
    (View(VGG_RUNS, "gradient_energy", (BASE,), ("train", "test", "misclassified")), 150_000),
    (View(VGG_RUNS, "samples_loss", (BASE,), ("misclassified",)), 100_000),
    (View(VGG_RUNS, "gap of N.6", (BASE,)), 2_500),
    (View(VGG_RUNS, "local_dimensionality", (BASE,), ("test",)), 0),
]


def go_to(page, address: str) -> None:
    """Follow a link to a view."""
    page.evaluate(FOLLOW, address)
    asked = parse_qs(address)
    expect(page.locator("#archive-network")).to_have_value(*asked["network"])
    expect(page.locator("#archive-quantity")).to_have_value(*asked["quantity"])


@functools.cache
def archived_table(network: str):
    scale = network.partition("_")[0]
    name = {"laptop": "correlations-mlp-relu", "paper": "correlations-vgg10"}[scale]
    return experiments.load(name, scale)


def over_seeds(view: View, setting, samples: str, step: int) -> tuple[float, float, int]:
    """Mean, spread and number of seeds of what a view draws, from the archive's table."""
    table = archived_table(view.network)
    rows = table[(table["lr"] == setting[0]) & (table["batch_size"] == setting[1])]
    rows = rows[(rows["samples"] == samples) & (rows["step"] == step)]
    if view.quantity.startswith("gap of "):
        key = view.quantity.removeprefix("gap of ")
        values = np.log10(rows[f"rhs_{key}"] / rows[f"lhs_{key}"])
    elif view.quantity == "n_wrong":
        values = (1 - rows["test_accuracy"]) * 10_000
    elif view.quantity == "root_sharpness":
        values = np.sqrt(rows["sharpness"])
    elif "/" in view.quantity:
        values = rows[view.quantity[0]] / rows[view.quantity[2]]
    else:
        values = rows[view.quantity]
    values = values[np.isfinite(values)].to_numpy()
    if view.quantity in ("train_loss", "samples_loss", "D/C"):
        return np.exp(np.log(values).mean()), np.exp(np.log(values).std(ddof=1)), len(values)
    return values.mean(), values.std(ddof=1), len(values)


def is_to_three_digits(text: str, value: float) -> bool:
    """Whether the text is the value to three digits; files hold five of it, three of a spread."""
    shown = float(re.sub("[^0-9.-]", "", text.replace("−", "-")))
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 2) if value else 0.01
    return len(re.sub("[^0-9]", "", text).lstrip("0")) >= 3 - 3 * (value == 0) and (
        abs(shown - value) <= 0.56 * unit
    )


def test_the_archives_readings_are_the_tables_to_three_digits(open_page):
    page, seen = open_page("archive"), set()
    for view, step in READINGS:
        go_to(page, f"{view.address}&step={step}")
        expect(page.locator("#archive-step")).to_have_attribute("aria-valuetext", f"step {step:,}")
        found = shown(page)
        for setting in view.settings:
            for samples in view.samples:
                name = "{:g}x{} {}".format(*setting, samples)
                mean, spread, n = over_seeds(view, setting, samples, step)
                assert is_to_three_digits(found.pop(f"{name} mean"), mean), view
                assert is_to_three_digits(found.pop(f"{name} spread"), spread), view
                assert found.pop(f"{name} seeds") == str(n) == "2"
                seen.add((view, setting, samples))
        assert not found
    assert len(seen) == 21


@pytest.mark.parametrize(
    ("text", "value", "right"),
    [
        ("28.6", 28.6499, True),
        ("28.7", 28.62, False),
        ("28", 28.0, False),
        ("−0.0305", -0.03046, True),
        ("0.0305", -0.03046, False),
        ("×÷ 1.02", 1.0249, True),
    ],
)
def test_three_digits_are_three_digits(text, value, right):
    assert is_to_three_digits(text, value) == right


def picture_of(page) -> tuple:
    return page.locator(".archive-picture").inner_html(), shown(page), page.url


def test_the_address_brings_back_the_picture(open_page):
    page = open_page("archive")
    assert "#" not in page.url
    set_slider(page, "archive-network", VGG_RUNS)
    expect(page.locator("tbody tr")).to_have_count(1)
    set_slider(page, "archive-quantity", "mls")
    page.get_by_label("test", exact=True).check()
    set_slider(page, "archive-step", 30)
    chosen = picture_of(page)
    set_slider(page, "archive-quantity", "D")
    set_slider(page, "archive-step", 10)
    assert picture_of(page) != chosen
    go_to(page, chosen[-1].partition("#")[2])
    assert picture_of(page) == chosen


def test_a_link_to_what_is_not_there_is_told_so(open_page):
    page = open_page("archive")
    status = page.locator("[role=status]")
    for address, told in {
        "network=vgg11": "This page has no vgg11, which the link names.",
        f"network={RELU_RUNS}&quantity=colour": "This network has no quantity called colour.",
        f"network={RELU_RUNS}&settings=0.3x20,0.2x20": "This page has no 0.3x20",
    }.items():
        page.evaluate(FOLLOW, address)
        page.clock.run_for(PAUSE)
        assert told in status.text_content()
        assert page.locator("tbody tr").count() > 0


def test_a_file_that_does_not_come_is_told(browser, site):
    page = browser.new_page()
    page.route("**/archive/paper_*", lambda route: route.abort())
    page.goto(f"{site.as_uri()}/archive.html")
    set_slider(page, "archive-network", VGG_RUNS)
    told = f"The file {VGG_RUNS}.js did not load"
    expect(page.locator("[role=status]")).to_contain_text(told)
    page.context.close()


def test_the_pointer_moves_the_line_of_readings(open_page):
    page = open_page("archive")
    box = page.locator(".archive-picture").bounding_box()
    left, right = box["x"] + 58, box["x"] + box["width"] - 14
    for step in (0, 12_500, 60_000):
        page.mouse.move(left + (right - left) * step / 60_000, box["y"] + 100)
        assert page.locator("output").text_content() == f"{step:,} of 60,000"


def test_of_long_runs_the_beginning_the_end_and_the_fits_are_shown():
    whole = ROOT / "results"  # other tests here have a smaller archive in its place
    long, short = (
        archive.read(name, "laptop", whole) for name in ("mlp-bounds", "mlp-relu-bounds")
    )
    every, shown = sorted(long.table.step.unique()), archive_data.shown_steps(long)
    assert set(shown) < set(every) and len(shown) <= archive_data.LARGEST + len(long.reached)
    assert shown[-1] == every[-1] == 180_000
    assert [s for s in shown if s < 1_250] == [s for s in every if s < 1_250]
    assert set(long.fit_steps().dropna()) <= set(shown)
    assert archive_data.shown_steps(short) == sorted(short.table.step.unique())


def test_each_setting_has_the_books_color_and_its_runs_have_their_fit_steps(open_page):
    page = open_page("archive")
    go_to(page, View(RELU_RUNS, "mls", (SLOW, FAST)).address)
    styles = page.locator(".archive-picture path.curve").evaluate_all(
        "all => all.map(curve => curve.style.color)"
    )
    assert styles == [f"var(--{figures.SETTINGS[setting].color})" for setting in (SLOW, FAST)]
    runs = archive.read("correlations-mlp-relu", "laptop")
    assert page.locator("path.fit").count() == runs.fit_steps().notna().sum() == 4


def test_the_command_makes_the_runs_that_are_drawn(open_page):
    page = open_page("archive")
    for settings in ((SLOW, FAST), (FAST,)):
        go_to(page, View(RELU_RUNS, "mls", settings).address)
        text = page.locator("[data-part=command]").text_content()
        told = re.fullmatch(r"flatlib run (\S+) --scale laptop --seeds (\S+)", text)
        made = experiments.configurations(told[1], "laptop", commands.seeds(told[2]))
        names = {run.name for run in made}
        assert {name for name in ARCHIVED["laptop"] if "lr0.2" in name} <= names


def test_every_view_of_a_figure_draws_what_the_figure_draws(open_page, results):
    """Means at the last checkpoint, of panels, of the chain and of gaps."""
    page, compared = open_page("archive"), 0
    runs = archive.read("correlations-mlp-relu", "laptop")
    drawn = [figures.reproduce(name, "laptop") for name in ("E.8",)]
    drawn += [figures.reproduce("3", "paper"), figures.inequalities("volume", runs, FAST)]
    for figure in drawn:
        last = figure.numbers[figure.numbers["step"] == figure.numbers["step"].max()]
        for view in figure.views.values():
            go_to(page, view.address)
            found = shown(page)
            for setting in set(view.settings) - set(figure.runs.missing):
                for samples in view.samples:
                    mean = mean_in(last, view, setting, samples)
                    text = found["{:g}x{} {} mean".format(*setting, samples)]
                    assert is_to_three_digits(text, mean), view
                    compared += 1
    assert compared > 30


def mean_in(numbers, view: View, setting, samples: str) -> float:
    """The mean in a figure's numbers of what a view draws."""
    columns = {"test_loss": "loss_there.mean"} if "samples" in numbers else {}
    column = columns.get(view.quantity, f"{view.quantity}.mean")
    if view.quantity.startswith("gap of "):
        numbers = numbers[numbers["key"] == view.quantity.removeprefix("gap of ")]
        column = "decades.mean"
    elif "samples" in numbers:
        numbers = numbers[numbers["samples"] == samples]
    else:
        numbers = numbers[(numbers["lr"] == setting[0]) & (numbers["batch_size"] == setting[1])]
    (value,) = numbers[column]
    return value


def test_what_a_page_gets_wrong_stops_the_build(build, capfd):
    wrong = {
        "unknown": (directive("rotation"), "no explorable is called 'rotation'; there are disc"),
        "mute": (directive("rescaling", ""), "Content block expected"),
        "twice": (directive("rescaling") + "\n\n" + directive("rescaling"), "'rescaling' twice"),
    }
    status, _ = build({name: text for name, (text, _) in wrong.items()})
    heard = "".join(capfd.readouterr())
    assert status != 0
    for name, (_, said) in wrong.items():
        assert re.search(rf"{name}\.md:\d+: [^\n]*{re.escape(said)}", heard), heard


def test_each_term_of_the_chain_has_its_look():
    sheet = explorables.colors()
    assert ".of-A { color: var(--blue); stroke-dasharray: none; }" in sheet
    assert ".of-D { color: var(--lime); stroke-dasharray: 14 4; }" in sheet
