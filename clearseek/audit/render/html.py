"""An audit as one page that needs nothing else: no script, no font, no picture from elsewhere.

Everything a release says is foreign text, so every piece is escaped, and the page forbids itself (by its
Content-Security-Policy) to load or run anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from clearseek.audit.evidence import Answer, Audit, Grade, Row
from clearseek.audit.read.card import shorten
from clearseek.audit.render.text import DIMENSIONS, MARKS, headline
from clearseek.audit.views import View, views
from clearseek.signing.tree import visible

_CLASS: Final[dict[Answer, str]] = {
    "yes": "yes", "partly": "part", "no": "no", "unknown": "open", "not applicable": "none",
}  # fmt: skip
"""Class of the style sheet that gives an answer its colour, on light and on dark."""
_STYLE: Final = """
:root { color-scheme: light dark; --text: #1f2328; --back: #fff; --soft: #57606a; --line: #d0d7de;
  --yes: #1a7f37; --part: #9a6700; --no: #cf222e; --open: #57606a; --none: #8c959f }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --back: #0d1117; --soft: #9198a1; --line: #3d444d;
  --yes: #3fb950; --part: #d29922; --no: #f85149; --open: #9198a1; --none: #656c76 } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 68rem; padding: 0 1rem;
  color: var(--text); background: var(--back) }
h1 { margin-bottom: 0; overflow-wrap: anywhere } h2 { margin-top: 2.2rem }
.head { font-size: 1.1rem; margin: .4rem 0 1.5rem }
table { border-collapse: collapse; width: 100% } small { color: var(--soft) } code { font-size: .85em }
td, th { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid var(--line) }
td.mark { font-size: 1.2rem; width: 1.2rem } td.grade { white-space: nowrap; width: 8rem } td.row { width: 15rem }
ul { margin: .3rem 0 0; padding-left: 1.1rem } td { overflow-wrap: anywhere }
.yes { color: var(--yes); fill: var(--yes) } .part { color: var(--part); fill: var(--part) }
.no { color: var(--no); fill: var(--no) } .open { color: var(--open); fill: var(--open) }
.none { color: var(--none); fill: var(--none) }
.line { fill: var(--line) } .faint { opacity: .35 }
svg text { fill: var(--text); font-size: 13px } svg .count { fill: var(--back); font-size: 11px }
svg { width: 100%; max-width: 640px; min-width: 16rem; height: auto }
.bar { display: flex; gap: 2px } .bar i { width: .9rem; height: .5rem; background: var(--line) }
.bar i.yes, .bar i.part, .bar i.no, .bar i.open, .bar i.none { background: currentColor }
.wide { overflow-x: auto } .wide td, .wide th { min-width: 9rem }
@media (max-width: 40rem) {
  .rows, .rows tbody, .rows tr, .rows td { display: block; width: auto; border: 0; padding: .1rem 0 }
  .rows tr { border-bottom: 1px solid var(--line); padding: .6rem 0 } .rows .mark { float: left; margin-right: .5rem } }
"""


def _text(foreign: str) -> str:
    """Text that is no markup, and in which nothing is unseen or turns the direction of reading."""
    return escape(visible(foreign))


def as_html(audit: Audit) -> str:
    """The whole page."""
    found = views(audit)
    parts = [
        f"<small>{_text(audit.subject)}: {audit.facts['files']:,} files, {audit.facts['bytes']:,} bytes</small>",
        f'<p class="head">{_text(headline(audit, found[0]))}</p>',
        _picture(audit),
        _LEGEND,
    ]
    for dimension, question in DIMENSIONS.items():
        parts += [f"<h2>{_text(question)}</h2>", '<table class="rows">']
        parts += [_row(row) for row in audit.of(dimension)]
        parts.append("</table>")
    parts += ["<h2>What frameworks make of it</h2>", _gap(found), *(_view(view) for view in found)]
    return _page(str(audit.facts["name"]), parts)


def comparison_html(audits: Sequence[Audit]) -> str:
    """Releases side by side: a column a release, a line an assertion; pointing at a cell shows its reason."""
    names = [_text(str(audit.facts["name"])) for audit in audits]
    head = "<tr><th></th>" + "".join(f"<th>{name}</th>" for name in names) + "</tr>"
    pictures = "".join(f"<td>{_picture(audit)}</td>" for audit in audits)
    parts = [f'<div class="wide"><table>{head}<tr><td></td>{pictures}</tr></table></div>', _LEGEND]
    plain = [views(audit) for audit in audits]
    parts += ["<h2>What frameworks make of it</h2>", f'<div class="wide"><table>{head}']
    for place, view in enumerate(plain[0]):
        cells = "".join(
            f"<td>claimed: {_text(found[place].claimed)}<br>proven: {_text(found[place].proven)}</td>"
            for found in plain
        )
        parts.append(f"<tr><td><b>{_text(view.name)}</b></td>{cells}</tr>")
    parts.append("</table></div>")
    for dimension, question in DIMENSIONS.items():
        titles = {row.id: row.title for audit in audits for row in audit.of(dimension)}
        parts += [f"<h2>{_text(question)}</h2>", f'<div class="wide"><table>{head}']
        for id, title in titles.items():
            cells = "".join(_cell(audit.get(id)) for audit in audits)
            parts.append(f"<tr><td><b>{_text(title)}</b><br><small>{_text(id)}</small></td>{cells}</tr>")
        parts.append("</table></div>")
    return _page(" beside ".join(str(audit.facts["name"]) for audit in audits), parts)


def _page(title: str, parts: list[str]) -> str:
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>Audit of {_text(title)}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{_STYLE}</style></head><body>',
        f"<h1>{_text(title)}</h1>",
    ]
    return "\n".join([*head, *parts, "</body></html>"]) + "\n"


def _cell(row: Row | None) -> str:
    """An answer with its grade."""
    if row is None:
        return "<td></td>"
    sign = f'<span class="{_CLASS[row.answer]}">{MARKS[row.answer][0]}</span>'
    reason = _text(shorten(row.reason, 140))
    return f'<td title="{_text(shorten(row.reason, 1000))}">{sign} E{int(row.grade)}<br><small>{reason}</small></td>'


def _row(row: Row) -> str:
    sign = f'<td class="mark {_CLASS[row.answer]}" title="{row.answer}">{MARKS[row.answer][0]}</td>'
    bars = "".join(
        f'<i class="{_CLASS[row.answer]}"></i>' if grade <= row.grade else "<i></i>" for grade in list(Grade)[1:]
    )
    grade = f'<td class="grade">{_text(row.grade.label)}<span class="bar">{bars}</span></td>'
    evidence = "".join(f"<li><code>{_text(str(each))}</code></li>" for each in row.evidence[:6])
    shown = f"<ul>{evidence}</ul>" if evidence else ""
    title = f'<td class="row"><b>{_text(row.title)}</b><br><small>{_text(row.id)}</small></td>'
    return f"<tr>{sign}{grade}{title}<td>{_text(row.reason)}{shown}</td></tr>"


def _view(view: View) -> str:
    lines = "".join(
        f"<tr><td>{_text(each.name)}</td>"
        + "".join(f'<td class="{_CLASS[way]}">{MARKS[way][0]} {way}</td>' for way in (each.claimed, each.proven))
        + f"<td><small>{_text(', '.join(each.rows))}</small></td></tr>"
        for each in view.entries
    )
    head = "<tr><th></th><th>as claimed</th><th>as proven</th><th>rests on</th></tr>"
    result = f"<p>As claimed: <b>{_text(view.claimed)}</b>. As proven: <b>{_text(view.proven)}</b>.</p>"
    return f'<h3>{_text(view.name)}</h3>{result}<div class="wide"><table>{head}{lines}</table></div>'


def _picture(audit: Audit) -> str:
    """How many rows of each dimension have which answer, as bars."""
    out = ['<svg viewBox="0 0 640 96" role="img" aria-label="Rows by answer and dimension">']
    for line, (dimension, question) in enumerate(DIMENSIONS.items()):
        out.append(f'<text x="0" y="{line * 30 + 19}">{_text(question)}</text>')
        out += _bar(audit.of(dimension), line * 30 + 6)
    return "".join(out) + "</svg>"


def _gap(found: Sequence[View]) -> str:
    """For each framework the share of its entries that is claimed, and in full colour the share that is proven."""
    out = [f'<svg viewBox="0 0 640 {len(found) * 26}" role="img" aria-label="Claimed and proven by framework">']
    for line, view in enumerate(found):
        y, count = line * 26, len(view.entries)
        out.append(f'<text x="0" y="{y + 15}">{_text(view.name)}</text>')
        out.append(f'<rect x="230" y="{y + 4}" width="400" height="14" class="line"/>')
        for way, look in (("claimed", "yes faint"), ("proven", "yes")):
            share = sum(getattr(each, way) == "yes" for each in view.entries)
            title = f"<title>{share} of {count} {way}</title>"
            width = 400 * share / count
            out.append(f'<rect x="230" y="{y + 4}" width="{width:.1f}" height="14" class="{look}">{title}</rect>')
    return "".join(out) + "</svg><p><small>pale: claimed; full: proven</small></p>"


_LEGEND: Final = f"<p><small>{_text(', '.join(f'{MARKS[answer][0]} {answer}' for answer in MARKS))}</small></p>"


def _bar(rows: tuple[Row, ...], y: int) -> Iterator[str]:
    x, width = 230.0, 400.0 / max(1, len(rows))
    for answer in MARKS:
        count = sum(row.answer == answer for row in rows)
        if count:
            box = f'x="{x:.1f}" y="{y}" width="{count * width - 1:.1f}" height="18" class="{_CLASS[answer]}"'
            yield f"<rect {box}><title>{count} {answer}</title></rect>"
            yield f'<text class="count" x="{x + 4:.1f}" y="{y + 13}">{count}</text>'
        x += count * width
