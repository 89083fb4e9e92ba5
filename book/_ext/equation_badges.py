"""Numbered equations that carry the result of their check.

A display with ``\\tag{LABEL}`` gets a badge and an anchor, ``[(LABEL)](#eq-LABEL)`` links to it
from any page, ``{equation-register}`` lists every registered equation, ``{equation-tally}`` sums
them up. All numbers come from one file that the register's own run writes. The build stops on a
numbered equation without a check, on a failed check, and on a registered equation that no page
shows.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from flatlib.lab.chapter import scientific

TAG = re.compile(r"\\tag\{([^{}]*)\}")
# What gives an equation a number of its own, past the register.
NUMBERED = re.compile(
    r"\\tag(?![a-zA-Z])|\\label\s*\{|\\begin\{(equation|(fl)?align(at)?|gather|multline|eqnarray)\}"
)
MARKS = {
    True: '<path d="M3 8.5 6.5 12 13 4.5" fill="none" stroke="currentColor" stroke-width="2.2"/>',
    False: '<path d="M4 4 12 12M12 4 4 12" fill="none" stroke="currentColor" stroke-width="2.2"/>',
}


class eqref_node(nodes.Inline, nodes.TextElement):
    """A link to an equation, written once all pages are known."""


class badge_node(nodes.General, nodes.Element):
    """The badge beside an equation; its link depends on the page that it stands on."""


class shown_in_node(nodes.General, nodes.Element):
    """The links from a register entry to the pages that show its equation."""


def anchor(label: str) -> str:
    """The id of an equation, on its chapter's page and on the register's.

    >>> anchor("13"), anchor("A.1")
    ('eq-13', 'eq-A-1')
    """
    return "eq-" + label.replace(".", "-")


def display_tex(statement: str, label: str) -> str:
    r"""TeX of a display with its number.

    >>> print(display_tex("a = b", "13"))
    \[a = b\tag{13}\]
    """
    body = "\n".join(line for line in statement.strip().splitlines() if line.strip())
    if r"\\" in body and r"\begin{" not in body:
        body = rf"\begin{{split}}{body}\end{{split}}"
    return rf"\[{body}\tag{{{label}}}\]"


def number(value: float) -> str:
    """A worst error or slack as a reader reads it.

    >>> number(0.0), number(0.0021), number(3.21e-12)
    ('0', '0.002', '3·10⁻¹²')
    """
    if 0 < abs(value) < 1e-3:
        return scientific(value, digits=1)
    return f"{value:.1g}".replace("-", "−")


def worst(entry: dict) -> str:
    """The check's worst number, in the words that fit it.

    >>> worst({"kind": "inequality", "worst": 2e-3, "worst_means": "least slack, relative"})
    'worst slack 0.002'

    Two sides that are equal may come out in the wrong order by rounding; a check that passes has
    found no more than that.

    >>> attained = {"kind": "inequality", "worst": -7e-16, "worst_means": "least slack, relative"}
    >>> worst(attained | {"passed": True})
    'worst slack 0 up to rounding'
    """
    if entry["worst_means"].endswith("the estimate's error"):
        return f"worst deviation {entry['worst']:.1f} times the estimate's error"
    if entry["kind"] == "definition":
        return f"worst error {number(entry['worst'])} between two computations"
    if entry["kind"] == "inequality" and entry["worst"] < 0 and entry.get("passed"):
        return "worst slack 0 up to rounding"
    return f"worst {'slack' if entry['kind'] == 'inequality' else 'error'} {number(entry['worst'])}"


def badge_text(entry: dict) -> str:
    """What the badge says.

    >>> badge_text({"passed": False})
    'check FAILED'
    """
    if not entry["passed"]:
        return "check FAILED"
    return f"checked · {entry['cases']} cases · {worst(entry)}"


def badge_html(entry: dict, uri: str) -> str:
    """The badge: a mark, a few words, a link to the entry, and a sentence for who cannot see it."""
    state = "passed" if entry["passed"] else "failed"
    text = badge_text(entry)
    title = html.escape(
        f"Equation {entry['label']}, {entry['name']}: {text}. Opens its register entry."
    )
    return (
        f'<a class="equation-badge equation-{state}" href="{html.escape(uri)}" title="{title}" '
        f'aria-label="{title}"><svg viewBox="0 0 16 16" width="12" height="12" aria-hidden="true">'
        f"{MARKS[entry['passed']]}</svg> {html.escape(text)}</a>"
    )


def register_of(env) -> dict[str, dict]:
    """The register's results, read once a build."""
    if not hasattr(env, "equation_results"):
        path = Path(env.srcdir) / env.config.equation_register
        if not path.exists():
            raise ExtensionError(f"no register results at {path}: 'make book' writes them")
        env.equation_results = json.loads(path.read_text(encoding="utf-8"))["equations"]
    return env.equation_results


def shown(env) -> dict[str, list[str]]:
    """Page to the labels that it shows, in order."""
    if not hasattr(env, "equations_shown"):
        env.equations_shown = {}
    return env.equations_shown


def faults(env) -> dict[str, list[str]]:
    """Page to what is wrong with its equations."""
    if not hasattr(env, "equation_faults"):
        env.equation_faults = {}
    return env.equation_faults


def add_fault(env, docname: str, text: str) -> None:
    faults(env).setdefault(docname, []).append(f"{docname}: {text}")


def checked_math(tex: str, label: str) -> nodes.math_block:
    """A display that the build's search for unchecked numbers lets pass."""
    text = display_tex(tex, label)
    return nodes.math_block(text, text, nowrap=True, number=None, checked=label)


class TallyDirective(SphinxDirective):
    """One sentence with the register's totals."""

    def run(self) -> list[nodes.Node]:
        entries = list(register_of(self.env).values())
        text = tally(entries)
        self.env.note_dependency(self.config.equation_register)
        return [nodes.paragraph(text, text, classes=["equation-tally"])]


def tally(entries: list[dict]) -> str:
    """How many equations are checked, on how many cases, and how badly the worst identity fares."""
    good = [entry for entry in entries if entry["passed"]]
    cases = sum(entry["cases"] for entry in entries)
    text = f"{len(good)} of {len(entries)} equations checked on {cases:,} cases"
    errors = [
        entry["worst"] for entry in entries if entry["worst_means"].startswith("largest error")
    ]
    if errors:
        text += f"; the worst relative error of an equality is {number(max(errors))}"
    mutants = [caught for entry in entries for caught in entry["mutants"].values()]
    return (
        f"{text}. Of {len(mutants)} deliberately broken versions the checks caught {sum(mutants)}."
    )


class RegisterDirective(SphinxDirective):
    """Every registered equation: statement, assumptions, numbers, the code of its check."""

    def run(self) -> list[nodes.Node]:
        return [self.entry(found) for found in register_of(self.env).values()]

    def entry(self, found: dict) -> nodes.section:
        label = found["label"]
        section = nodes.section(ids=[anchor(label)], names=[f"equation {label.lower()}"])
        section += nodes.title("", f"({label}) {found['name']}")
        section += checked_math(found["statement"], label)
        badge = badge_node(label=label)
        section += badge
        section += self.markdown(self.facts(found))
        section += shown_in_node(label=label)
        section += nodes.raw("", "<details><summary>The code of its check</summary>", format="html")
        section += nodes.literal_block(found["code"], found["code"], language="python")
        section += nodes.raw("", "</details>", format="html")
        return section

    def facts(self, found: dict) -> list[str]:
        lines = [f"Where: {found['where']}", ""]
        if found["assumptions"]:
            lines += ["Assumes:", ""] + [f"- {one}" for one in found["assumptions"]] + [""]
        caught = sum(found["mutants"].values())
        lines += [
            f"Kind: {found['kind']}. {found['cases']} cases in {found['seconds']:.2f} s; "
            f"{worst(found)} "
            f"({found['worst_means']}).",
            f"Of {len(found['mutants'])} mutants the check caught {caught}.",
        ]
        if found["attained"] is not None:
            lines += [f"Its equality cases are attained to {number(found['attained'])}."]
        return lines

    def markdown(self, lines: list[str]) -> nodes.container:
        box = nodes.container()
        self.state.nested_parse(StringList(lines, source="register"), self.content_offset, box)
        return box


def number_equations(app: Sphinx, doctree: nodes.document) -> None:
    """Give every tagged display its badge, and note what numbers itself in another way."""
    env = app.env
    for node in list(doctree.findall(nodes.math_block)):
        if node.get("checked"):
            continue
        tex = node.astext()
        tags, rest = TAG.findall(tex), TAG.sub("", tex).strip()
        own = node.get("label") or node.get("number") or NUMBERED.search(rest)
        if own or len(tags) > 1 or (tags and not rest):
            where = f"line {node.line}: " if node.line else ""
            text = f"{where}numbered equation without a check: {' '.join(tex.split())[:60]}"
            add_fault(env, env.docname, text)
        elif tags and tags[0] not in register_of(env):
            add_fault(env, env.docname, f"equation {tags[0]} has no check in the register")
        elif tags:
            node.replace_self(equation_box(env, rest, tags[0]))


def equation_box(env, tex: str, label: str) -> nodes.container:
    """One equation with its badge; the first on its page carries the anchor."""
    env.note_dependency(env.config.equation_register)
    here = shown(env).setdefault(env.docname, [])
    box = nodes.container(classes=["equation-box"])
    if label not in here:
        box["ids"].append(anchor(label))
    here.append(label)
    box += checked_math(tex, label)
    box += badge_node(label=label)
    return box


def link_equations(app: Sphinx, doctree: nodes.document) -> None:
    """Take over the links to equations, which may stand on any page."""
    env = app.env
    labels = {anchor(label): label for label in register_of(env)}
    for node in list(doctree.findall(addnodes.pending_xref)):
        if not node["reftarget"].startswith("eq-"):
            continue
        label = labels.get(node["reftarget"])
        if label is not None and node.astext() == f"({label})":
            node.replace_self(eqref_node(label=label))
        else:
            link = f"[{node.astext()}](#{node['reftarget']})"
            add_fault(env, env.docname, f"{link} does not name an equation that it links")


def forget(app: Sphinx, env, docname: str) -> None:
    for kept in (shown(env), faults(env)):
        kept.pop(docname, None)


def merge(app: Sphinx, env, docnames, other) -> None:
    for kept, more in ((shown(env), shown(other)), (faults(env), faults(other))):
        kept.update({name: more[name] for name in docnames if name in more})


def stop_on_faults(app: Sphinx, env) -> None:
    """Fail the build, and name each fault.

    Raises:
        ExtensionError: a numbered equation without a check, a failed check, or one that no
        page shows.
    """
    found = [text for name in sorted(faults(env)) for text in faults(env)[name]]
    results = register_of(env)
    found += [
        f"equation {label} ({entry['name']}): its check failed, {worst(entry)} in "
        f"{entry['cases']} cases; {entry['failure']}"
        for label, entry in results.items()
        if not entry["passed"]
    ]
    displayed = {label for labels in shown(env).values() for label in labels}
    if env.config.equation_strict:
        missing = [label for label in results if label not in displayed]
        found += [f"equation {label} is registered, but no chapter shows it" for label in missing]
    if found:
        raise ExtensionError("equations:\n  " + "\n  ".join(found))


def resolve(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Write badges and links, now that it is known which page shows which equation."""
    env, builder = app.env, app.builder
    first = first_pages(env)
    register_page = builder.get_relative_uri(docname, env.config.equation_register_page)
    for node in list(doctree.findall(badge_node)):
        label = node["label"]
        text = badge_html(register_of(env)[label], f"{register_page}#{anchor(label)}")
        node.replace_self(nodes.raw("", text, format="html"))
    for node in list(doctree.findall(eqref_node)):
        label = node["label"]
        page = first.get(label, env.config.equation_register_page)
        uri = f"{builder.get_relative_uri(docname, page)}#{anchor(label)}"
        text = f"({label})"
        link = nodes.reference(
            text, text, refuri=uri, internal=True, classes=["equation-reference"]
        )
        node.replace_self(link)
    for node in list(doctree.findall(shown_in_node)):
        label = node["label"]
        pages = [page for page in sorted(shown(env)) if label in shown(env)[page]]
        line = nodes.paragraph("", "Shown in: " if pages else "No page shows it yet.")
        for index, page in enumerate(pages):
            title = env.titles[page].astext()
            uri = f"{builder.get_relative_uri(docname, page)}#{anchor(label)}"
            line += [nodes.Text(", ")] if index else []
            line += nodes.reference(title, title, refuri=uri, internal=True)
        node.replace_self(line)


def first_pages(env) -> dict[str, str]:
    """Label to the first page, by name, that shows it."""
    first = {}
    for page in sorted(shown(env)):
        for label in shown(env)[page]:
            first.setdefault(label, page)
    return first


def read_anew(app: Sphinx, env, docnames) -> None:
    """Forget an earlier build's results: the file may hold others by now."""
    if hasattr(env, "equation_results"):
        del env.equation_results


def setup(app: Sphinx) -> dict:
    app.add_config_value("equation_register", "_generated/register.json", "env")
    app.add_config_value("equation_register_page", "register", "env")
    app.add_config_value("equation_strict", True, "env")
    for node in (eqref_node, badge_node, shown_in_node):
        app.add_node(node)
    app.add_directive("equation-register", RegisterDirective)
    app.add_directive("equation-tally", TallyDirective)
    app.connect("env-before-read-docs", read_anew)
    app.connect("doctree-read", number_equations)
    app.connect("doctree-read", link_equations)
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
    app.connect("env-check-consistency", stop_on_faults)
    app.connect("doctree-resolved", resolve)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
