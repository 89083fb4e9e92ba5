"""book/_ext/equation_badges.py: badges show what the register's run found, and the build stops
where it must.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import equation_badges
import pytest
from sphinx.cmd.build import build_main

from flatlib.lab import equations

CONFIG = """
extensions = ["myst_parser", "equation_badges"]
myst_enable_extensions = ["dollarmath"]
"""
REGISTER_PAGE = "# Register\n\n```{equation-tally}\n```\n\n```{equation-register}\n```\n"


def entry(label: str, **changes) -> dict:
    return {
        "label": label,
        "name": f"Name of {label}",
        "statement": r"a \le b",
        "where": "Sec. 3, `C`",
        "assumptions": ["$x \\ne 0$"],
        "kind": "inequality",
        "passed": True,
        "cases": 200,
        "worst": 3.4e-12,
        "seconds": 0.5,
        "worst_means": "least slack, relative to the right-hand side",
        "attained": 2e-16,
        "failure": "",
        "mutants": {"wrong norm": True, "dropped factor": True},
        "code": "def check_it(seed, cases):\n    return seed\n",
        **changes,
    }


@pytest.fixture
def build(tmp_path, capsys):
    """Builds pages with a register; gives the exit status, what was printed and the site's
    folder.
    """

    def run(pages: dict[str, str], *entries: dict, config: str = ""):
        source = tmp_path / "source"
        (source / "_generated").mkdir(parents=True, exist_ok=True)
        (source / "conf.py").write_text(CONFIG + config)
        found = {"equations": {one["label"]: one for one in entries}}
        (source / "_generated" / "register.json").write_text(json.dumps(found))
        toc = "\n".join(name for name in [*pages, "register"])
        (source / "index.md").write_text(f"# Front\n\n```{{toctree}}\n{toc}\n```\n")
        (source / "register.md").write_text(REGISTER_PAGE)
        for name, text in pages.items():
            (source / f"{name}.md").write_text(f"# Title of {name}\n\n{text}\n")
        arguments = ["-W", "-n", "--keep-going", "-q", "-E", "-b", "html"]
        status = build_main([*arguments, str(source), str(tmp_path / "html")])
        printed = capsys.readouterr()
        return status, printed.out + printed.err, tmp_path / "html"

    return run


def shows(*labels: str) -> str:
    return "\n\n".join(f"$$\na \\le b\n\\tag{{{label}}}\n$$" for label in labels)


def test_a_checked_equation_gets_number_anchor_and_badge(build):
    status, printed, site = build({"one": shows("A.1") + "\n\nSee [(A.1)](#eq-A-1)."}, entry("A.1"))
    assert status == 0, printed
    html = (site / "one.html").read_text()
    assert r"\[a \le b\tag{A.1}\]" in html
    assert re.search(r'<div class="equation-box[^>]*id="eq-A-1"', html)
    badge = re.search(r'<a class="equation-badge equation-passed".*?</a>', html, re.DOTALL).group(0)
    assert 'href="register.html#eq-A-1"' in badge
    assert "checked · 200 cases · worst slack 3·10⁻¹²" in badge
    assert 'aria-label="Equation A.1, Name of A.1: checked' in badge
    assert 'href="one.html#eq-A-1"' in html or 'href="#eq-A-1"' in html


def test_the_register_page_has_statement_assumptions_numbers_code_and_pages(build):
    _, printed, site = build({"one": shows("13")}, entry("13"))
    html = (site / "register.html").read_text()
    assert 'id="eq-13"' in html, printed
    text = re.sub(r"<[^>]+>", "", html)
    for part in ("(13) Name of 13", "Sec. 3, C", "200 cases in 0.50 s", "worst slack 3·10⁻¹²"):
        assert part in text
    assert r"x \ne 0" in text
    assert "check_it" in text
    assert "Of 2 mutants the check caught 2." in text
    assert 'href="one.html#eq-13"' in html


def test_the_tally_counts_what_the_run_found():
    error = {"kind": "identity", "worst_means": "largest error, relative"}
    entries = [
        entry("1", **error, worst=2e-13, cases=1000),
        entry("2", **error, worst=5e-11, mutants={"wrong": False}),
        entry("3", worst=0.25),
        entry(
            "8",
            kind="definition",
            worst_means="largest deviation, in units of the estimate's error",
            worst=3.0,
        ),
    ]
    text = equation_badges.tally(entries)
    assert "4 of 4 equations checked on 1,600 cases" in text
    assert "worst relative error of an equality is 5·10⁻¹¹" in text
    assert "Of 7 deliberately broken versions the checks caught 6." in text


def test_an_estimated_definition_counts_the_estimates_errors():
    meaning = "largest deviation, in units of the estimate's error"
    text = equation_badges.badge_text(
        entry("8", kind="definition", worst_means=meaning, worst=3.04)
    )
    assert text.endswith("worst deviation 3.0 times the estimate's error")


def test_an_attained_inequality_does_not_read_as_a_violation():
    text = equation_badges.badge_text(entry("13", worst=-7e-16))
    assert text == "checked · 200 cases · worst slack 0 up to rounding"
    assert "−0.4" in equation_badges.worst(entry("13", worst=-0.4, passed=False))


def test_a_definition_says_that_two_computations_agree():
    defined = entry("14", kind="definition", worst_means="largest error, relative", worst=2e-13)
    text = equation_badges.badge_text(defined)
    assert text == "checked · 200 cases · worst error 2·10⁻¹³ between two computations"


def test_an_equation_that_nobody_registered_stops_the_build(build):
    status, printed, _ = build({"one": shows("13", "99")}, entry("13"))
    assert status != 0
    assert "one: equation 99 has no check in the register" in printed


def test_a_link_reaches_an_equation_on_another_page(build):
    pages = {"one": shows("A.1"), "two": "See Eq. [(A.1)](#eq-A-1)."}
    status, printed, site = build(pages, entry("A.1"))
    assert status == 0, printed
    assert 'href="one.html#eq-A-1">(A.1)</a>' in (site / "two.html").read_text()


@pytest.mark.parametrize(
    "link", ["[(77)](#eq-77)", "[(None)](#eq-99)", "[(12)](#eq-13)", "[](#eq-13)"]
)
def test_a_link_to_another_equation_than_it_names_stops_the_build(build, link):
    status, printed, _ = build({"one": shows("13") + f"\n\n{link}"}, entry("13"))
    assert status != 0
    assert f"one: {link} does not name an equation that it links" in printed


@pytest.mark.parametrize(
    "text",
    [
        "$$\na = b\n$$ (name)",
        "$$\na = b \\tag{13} \\tag{13}\n$$",
        "$$\na = b \\tag*{13}\n$$",
        "$$\n\\tag{13}\n$$",
        "$$\na = b \\label{one}\n$$",
        "$$\na = b \\tag1\n$$",
        "$$\n\\begin{alignat}{1} a &= b \\end{alignat}\n$$",
        "```{math}\n:label: name\na = b\n```",
        "$$\n\\begin{equation} a = b \\end{equation}\n$$",
        "```{math}\n\\begin{align} a &= b \\end{align}\n```",
    ],
)
def test_a_number_without_a_check_stops_the_build(build, text):
    status, printed, _ = build({"one": shows("13") + "\n\n" + text}, entry("13"))
    assert status != 0
    assert "numbered equation without a check" in printed
    assert "one: " in printed


def test_an_intermediate_step_needs_no_check(build):
    steps = "$$\na = b\n$$\n\n$$\n\\begin{aligned} a &= b \\end{aligned}\n$$\n\nInline $a$."
    status, printed, _ = build({"one": shows("13") + "\n\n" + steps}, entry("13"))
    assert status == 0, printed


def test_a_failed_check_stops_the_build(build):
    failed = entry("13", passed=False, worst=0.4, failure="case 7")
    status, printed, _ = build({"one": shows("13")}, failed)
    assert status != 0
    assert (
        "equation 13 (Name of 13): its check failed, worst slack 0.4 in 200 cases; case 7"
        in printed
    )


def test_a_failed_check_has_a_red_badge():
    badge = equation_badges.badge_html(entry("13", passed=False), "register.html#eq-13")
    assert "equation-failed" in badge
    assert "check FAILED" in badge
    style = Path(__file__).resolve().parents[1] / "book" / "_static" / "book.css"
    assert re.search(r"\.equation-failed[^{]*\{[^}]*background: #b3261e", style.read_text())


def test_an_equation_that_no_page_shows_stops_the_build(build):
    status, printed, _ = build({"one": shows("13")}, entry("13"), entry("14"))
    assert status != 0
    assert "equation 14 is registered, but no chapter shows it" in printed


def test_the_book_does_not_switch_that_off():
    text = (Path(__file__).resolve().parents[1] / "book" / "_config.yml").read_text()
    assert "equation_strict" not in text


def test_a_removed_register_file_stops_the_build(build, tmp_path):
    config = 'equation_register = "_generated/other.json"'
    status, printed, _ = build({"one": shows("13")}, entry("13"), config=config)
    assert status != 0
    assert "'make book' writes them" in printed


def test_a_second_build_sees_a_changed_register(build):
    assert build({"one": shows("13")}, entry("13"))[0] == 0
    _, _, site = build({"one": shows("13")}, entry("13", cases=7))
    assert "checked · 7 cases" in (site / "one.html").read_text()


def test_several_lines_keep_one_number_outside_of_them():
    text = equation_badges.display_tex("a &= b \\\\\n\n&= c", "12")
    assert text == "\\[\\begin{split}a &= b \\\\\n&= c\\end{split}\\tag{12}\\]"


def displays(label: str) -> list[str]:
    """Every display of the chapters that carries an equation's number."""
    folder = Path(__file__).resolve().parents[1] / "notebooks"
    found = []
    for path in sorted(folder.glob("*.ipynb")):
        for cell in json.loads(path.read_text())["cells"]:
            text = "".join(cell["source"])
            found += [one for one in text.split("$$")[1::2] if rf"\tag{{{label}}}" in one]
    return found


@pytest.mark.parametrize(
    "label, parts",
    [
        ("8", [r"^\top", r"+o(\lVert x-\bar x\rVert)"]),
        ("9", [r"C_f^{\lim}=\lim_{\alpha\to0}\tfrac1\alpha\,C_{f(\mathcal B_\alpha)}="]),
    ],
)
def test_a_corrected_equation_stands_in_the_chapters_as_in_the_register(label, parts):
    (shown,) = displays(label)
    for part in parts:
        assert part in shown and part in equations.find(label).statement
    assert r"=\alpha" not in shown
