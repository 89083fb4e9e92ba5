"""What the archived runs say of the paper's claims, put on a page.

``{claims-sentence}``, ``{claims-tally}``, ``{claims-picture}``, ``{claims-table} NETWORK``,
``{claims-against}``, ``{claims-checks}``, ``{claims-thresholds}``, ``{claims-scales}``,
``{claims-line}`` and ``{claims-refused}`` show what one file holds that the claims' own run wrote;
``{claim}`KEY: WORD``` puts a claim's number into a sentence. The build stops on a claim that is not
in the file. Whether WORD is still what the runs say is for a test to tell.
"""

from __future__ import annotations

import html
import json
from collections import Counter
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective, SphinxRole

SHAPES = {  # of the picture's words, for the tables
    "held": ("●", "held"),
    "against": ("✖", "against"),
    "no difference beyond the margin": ("■", "same"),
    "not decided": ("◆", "open"),
    "not tested": ("–", "untested"),
}


def found(env) -> dict:
    """What the claims' run wrote, read once a build."""
    if not hasattr(env, "claims_found"):
        path = Path(env.srcdir) / env.config.claims_file
        if not path.exists():
            raise ExtensionError(f"no verdicts on the claims at {path}: 'make book' writes them")
        env.claims_found = json.loads(path.read_text(encoding="utf-8"))
    return env.claims_found


def anchor(key: str) -> str:
    """The id of a claim's row.

    >>> anchor("vgg10.chain.25")
    'claim-vgg10-chain-25'
    """
    return "claim-" + key.replace(".", "-")


def word_html(word: str) -> str:
    """A word with its shape and colour.

    >>> word_html("held")
    '<span class="claim-word claim-held"><span aria-hidden="true">●</span> held</span>'
    """
    shape, name = SHAPES[word]
    mark = f'<span aria-hidden="true">{shape}</span>'
    return f'<span class="claim-word claim-{name}">{mark} {html.escape(word)}</span>'


def table_html(heads: list[str], rows: list[list[str]]) -> str:
    """A table that a telephone shows as one card a row; cells are HTML.

    >>> table_html(["a"], [["1"]])[:33]
    '<div class="card-table full-width'
    """
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in heads)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td data-label="{html.escape(name)}">{cell}</td>'
            for name, cell in zip(heads, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        '<div class="card-table full-width"><table class="table">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


class Piece(SphinxDirective):
    """A piece of the page, made from what the run found."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(self.config.claims_file)
        return [nodes.raw("", text, format="html") for text in [self.text(found(self.env))] if text]

    def text(self, data: dict) -> str:
        raise NotImplementedError


class Sentence(Piece):
    """How many claims have which word, in a sentence that leads to the page of claims."""

    def text(self, data: dict) -> str:
        return f'<p class="claims-sentence">{sentence(data, self.config.claims_page)}</p>'


def sentence(data: dict, page: str) -> str:
    """The counts of words, the claims that were not tested apart.

    >>> words = ["held", "against", "not tested", "held"]
    >>> sentence({"claims": [{"word": word} for word in words]}, "claims")
    '<a href="claims.html">3 claims of the paper</a> were put to our runs: 2 held, 1 against. \
For 1 more the runs do not suffice.'
    """
    counts = Counter(one["word"] for one in data["claims"])
    untested = counts.pop("not tested", 0)
    words = ", ".join(f"{counts[word]} {html.escape(word)}" for word in SHAPES if counts[word])
    text = f'<a href="{page}.html">{counts.total()} claims of the paper</a> were put to our runs: '
    more = f" For {untested} more the runs do not suffice." if untested else ""
    return f"{text}{words or 'none'}.{more}"


class Tally(Piece):
    """How many claims have which word, by network."""

    def text(self, data: dict) -> str:
        counts = Counter((one["network"], one["word"]) for one in data["claims"])
        rows = [
            [html.escape(title), *(str(counts[network, word]) for word in data["words"])]
            for network, title in data["networks"].items()
        ]
        total = Counter(one["word"] for one in data["claims"])
        rows.append(["all", *(f"<b>{total[word]}</b>" for word in data["words"])])
        table = table_html(["network", *data["words"]], rows)
        for word in data["words"]:
            table = table.replace(f'<th scope="col">{word}<', f'<th scope="col">{word_html(word)}<')
        return table


class Picture(Piece):
    """One dot and interval a claim."""

    def text(self, data: dict) -> str:
        return data["picture"]


class Table(Piece):
    """Every claim on one network."""

    required_arguments = 1

    def text(self, data: dict) -> str:
        network = self.arguments[0]
        if network not in data["networks"]:
            raise self.error(f"no claims are about {network!r}; there are {data['networks']}")
        parts = []
        for group, title in data["groups"].items():
            own = [
                one for one in data["claims"] if (one["network"], one["group"]) == (network, group)
            ]
            if own:
                parts.append(self.group(title, own))
        return "".join(parts)

    def group(self, title: str, own: list[dict]) -> str:
        """A fold: how many claims have which word, and the claims; open if any is against."""
        same = len({one["basis"] for one in own}) == 1
        heads = ["the paper's claim", "our runs", "margin", "uncorrected", "after Holm"]
        if not same:
            heads.insert(3, "runs")
        rows = []
        for one in own:
            reason = f"<br><small>{html.escape(one['reason'])}</small>" if one["reason"] else ""
            row = [
                f'<a id="{anchor(one["key"])}" href="{one["link"]}">{html.escape(one["claim"])}</a>'
                f" <small>{html.escape(one['source'])}</small>",
                html.escape(one["effect"]),
                html.escape(one["margin"] or "–"),
                word_html(one["uncorrected"]),
                word_html(one["word"]) + reason,
            ]
            if not same:
                row.insert(3, f"<small>{html.escape(one['basis'])}</small>")
            rows.append(row)
        counts = Counter(one["word"] for one in own)
        words = " ".join(f"{word_html(word)} {counts[word]}" for word in SHAPES if counts[word])
        basis = f"<p><small>Runs: {html.escape(own[0]['basis'])}.</small></p>" if same else ""
        against = any(one["word"] == "against" for one in own)
        return (
            f'<details class="claims-group"{" open" if against else ""}>'
            f"<summary><b>{html.escape(title)}</b> {words}</summary>"
            f"{basis}{table_html(heads, rows)}</details>"
        )


class Against(Piece):
    """The claims that the runs contradict, before and after Holm."""

    def text(self, data: dict) -> str:
        rows = [
            [
                html.escape(data["networks"][one["network"]].split(" on ")[0]),
                f'<a href="#{anchor(one["key"])}">{html.escape(one["claim"])}</a>',
                html.escape(one["effect"]),
                word_html(one["word"]),
            ]
            for word in ("against", "not decided")
            for one in data["claims"]
            if one["uncorrected"] == "against" and one["word"] == word
        ]
        if not rows:
            return "<p>No claim came out against the paper.</p>"
        count = sum(one["word"] == "against" for one in data["claims"])
        line = (
            f"<p>After Holm {count} claims are against the paper; "
            f"{len(rows) - count} more are without the correction.</p>"
        )
        return line + table_html(["network", "the paper's claim", "our runs", "after Holm"], rows)


class Checks(Piece):
    """Theorems, and how often archived measurements obeyed them."""

    def text(self, data: dict) -> str:
        rows = [
            [
                html.escape(data["networks"][one["network"]].removesuffix(", for comparison")),
                html.escape(one["claim"]),
                html.escape(one["scale"]),
                f"{one['held']:,} of {one['measured']:,}",
            ]
            for one in data["checks"]
        ]
        return table_html(["network", "theorem", "scale", "obeyed in"], rows)


class Thresholds(Piece):
    """The claims whose word depends on what counts as fitted."""

    def text(self, data: dict) -> str:
        rows = [
            [
                html.escape(f"{data['networks'][one['network']].split(' on ')[0]}: {one['claim']}"),
                *map(word_html, one["words"]),
            ]
            for one in data["changing"]
        ]
        count = f"<p>The word changes for {len(rows)} of {len(data['claims'])} claims.</p>"
        return count + (table_html(["claim", *data["thresholds"]], rows) if rows else "")


class Scales(Piece):
    """The claims whose word the runs of the other scale would change."""

    def text(self, data: dict) -> str:
        found = data["other_scale"]
        rows = [
            [
                html.escape(f"{data['networks'][one['network']].split(' on ')[0]}: {one['claim']}"),
                *(
                    f"{html.escape(at['effect'])} {word_html(at['word'])}"
                    f"<br><small>{html.escape(at['runs'])}</small>"
                    for at in one["scales"]
                ),
            ]
            for one in found["differing"]
        ]
        count = (
            f"<p>Of {found['claims']} claims that both scales can test, the word differs for "
            f"{len(rows)} and the effect has the other sign for {found['opposite']}.</p>"
        )
        if not rows:
            return count
        table = table_html(["claim", "the runs that decide", "those of the other scale"], rows)
        return f"{count}<details><summary>Claims whose word differs</summary>{table}</details>"


class Line(Piece):
    """How nearly the five settings lie on one line, and networks drawn at random."""

    def text(self, data: dict) -> str:
        words = [
            f"{one['correlation']} for the {data['networks'][network].split(' on ')[0]} "
            f"({one['scale']} scale)"
            for network, one in data["line"].items()
        ]
        if not words:
            return "<p>No five settings are archived.</p>"
        ratio = [f"{value} for {name}" for name, value in data["ratio"].items()]
        drawn = f" Over networks drawn at random it is {'; '.join(ratio)}." if ratio else ""
        return (
            "<p>The correlation of log(lr/batch) with √S over the means of the five settings is "
            f"{html.escape('; '.join(words))}.{html.escape(drawn)}</p>"
        )


class Refused(Piece):
    """The records that were not whole; nothing where all are."""

    def text(self, data: dict) -> str:
        if not data["refused"]:
            return ""
        names = "".join(f"<li>{html.escape(name)}</li>" for name in data["refused"])
        return (
            '<div class="admonition warning"><p class="admonition-title">Built without</p>'
            f"<p>These records are not whole and were left out:</p><ul>{names}</ul></div>"
        )


class ClaimRole(SphinxRole):
    """A claim's number and word in a sentence, linked to its row."""

    def run(self) -> tuple[list[nodes.Node], list]:
        key = self.text.partition(":")[0].strip()
        own = [one for one in found(self.env)["claims"] if one["key"] == key]
        if not own:
            raise ExtensionError(f"{self.env.docname}: there is no claim {key!r}")
        page = self.env.config.claims_page
        link = f"#{anchor(key)}"
        target = link if self.env.docname == page else f"{page}.html{link}"
        text = f'<a href="{target}">{html.escape(own[0]["effect"])}, {own[0]["word"]}</a>'
        return [nodes.raw("", text, format="html")], []


def read_anew(app: Sphinx, env, docnames) -> None:
    """Forget an earlier build's verdicts: the file may hold others by now."""
    if hasattr(env, "claims_found"):
        del env.claims_found


def setup(app: Sphinx) -> dict:
    app.add_config_value("claims_file", "_generated/claims.json", "env")
    app.add_config_value("claims_page", "claims", "env")
    pieces = (Sentence, Tally, Picture, Table, Against, Checks, Thresholds, Scales, Line, Refused)
    for piece in pieces:
        app.add_directive(f"claims-{piece.__name__.lower()}", piece)
    app.add_role("claim", ClaimRole())
    app.connect("env-before-read-docs", read_anew)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
