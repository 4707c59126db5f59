"""An audit as one page that needs nothing else: no script, no font, no picture from elsewhere.

Everything a release says is foreign text, so every piece is escaped, and the page forbids itself (by its
Content-Security-Policy) to load or run anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Final

from clearseek.openness.evidence import Answer, Audit, Grade, Row
from clearseek.openness.render.text import MARKS, QUESTIONS, headline
from clearseek.openness.views import View, views

COLOURS: Final[dict[Answer, str]] = {
    "yes": "#1a7f37", "partly": "#9a6700", "no": "#cf222e", "unknown": "#57606a", "not applicable": "#afb8c1",
}  # fmt: skip
_STYLE: Final = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 68rem; padding: 0 1rem; color: #1f2328 }
h1 { margin-bottom: 0 } h2 { margin-top: 2.2rem } .head { font-size: 1.1rem; margin: .4rem 0 1.5rem }
table { border-collapse: collapse; width: 100% } small { color: #57606a } code { font-size: .85em }
td, th { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid #d0d7de }
td.mark { font-size: 1.2rem; width: 1.2rem } td.grade { white-space: nowrap; width: 8rem } td.row { width: 15rem }
ul { margin: .3rem 0 0; padding-left: 1.1rem } td { overflow-wrap: anywhere }
.bar { display: flex; gap: 2px } .bar i { width: .9rem; height: .5rem; background: #d0d7de }
"""


def as_html(audit: Audit) -> str:
    """The whole page."""
    name = escape(str(audit.facts["name"]))
    found = views(audit)
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>Audit of {name}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{_STYLE}</style></head><body>',
        f"<h1>{name}</h1>",
        f"<small>{escape(audit.subject)}: {audit.facts['files']:,} files, {audit.facts['bytes']:,} bytes</small>",
        f'<p class="head">{escape(headline(audit, found[0]))}</p>',
        _picture(audit),
    ]
    for dimension, question in QUESTIONS.items():
        parts += [f"<h2>{escape(question)}</h2>", "<table>"]
        parts += [_row(row) for row in audit.of(dimension)]
        parts.append("</table>")
    parts += ["<h2>What frameworks make of it</h2>", *(_view(view) for view in found), "</body></html>"]
    return "\n".join(parts) + "\n"


def _row(row: Row) -> str:
    sign = f'<td class="mark" style="color:{COLOURS[row.answer]}" title="{row.answer}">{MARKS[row.answer][0]}</td>'
    bars = "".join(
        f'<i style="background:{COLOURS[row.answer]}"></i>' if grade <= row.grade else "<i></i>"
        for grade in list(Grade)[1:]
    )
    grade = f'<td class="grade">{escape(row.grade.label)}<span class="bar">{bars}</span></td>'
    evidence = "".join(f"<li><code>{escape(str(each))}</code></li>" for each in row.evidence[:6])
    shown = f"<ul>{evidence}</ul>" if evidence else ""
    title = f'<td class="row"><b>{escape(row.title)}</b><br><small>{escape(row.id)}</small></td>'
    return f"<tr>{sign}{grade}{title}<td>{escape(row.reason)}{shown}</td></tr>"


def _view(view: View) -> str:
    lines = "".join(
        f"<tr><td>{escape(each.name)}</td>"
        + "".join(f'<td style="color:{COLOURS[way]}">{MARKS[way][0]} {way}</td>' for way in (each.claimed, each.proven))
        + f"<td><small>{escape(', '.join(each.rows))}</small></td></tr>"
        for each in view.entries
    )
    head = "<tr><th></th><th>as claimed</th><th>as proven</th><th>rests on</th></tr>"
    result = f"<p>As claimed: <b>{escape(view.claimed)}</b>. As proven: <b>{escape(view.proven)}</b>.</p>"
    return f"<h3>{escape(view.name)}</h3>{result}<table>{head}{lines}</table>"


def _picture(audit: Audit) -> str:
    """How many rows of each dimension have which grade, as bars."""
    out = ['<svg viewBox="0 0 640 96" width="640" role="img" aria-label="Rows by answer and dimension">']
    for line, (dimension, question) in enumerate(QUESTIONS.items()):
        out.append(f'<text x="0" y="{line * 30 + 19}" font-size="13">{escape(question)}</text>')
        out += _bar(audit.of(dimension), line * 30 + 6)
    legend = ", ".join(f"{MARKS[answer][0]} {answer}" for answer in MARKS)
    return "".join(out) + f"</svg><br><small>{escape(legend)}</small>"


def _bar(rows: tuple[Row, ...], y: int) -> Iterator[str]:
    x, width = 230.0, 400.0 / max(1, len(rows))
    for answer in MARKS:
        count = sum(row.answer == answer for row in rows)
        if count:
            box = f'x="{x:.1f}" y="{y}" width="{count * width - 1:.1f}" height="18" fill="{COLOURS[answer]}"'
            yield f"<rect {box}><title>{count} {answer}</title></rect>"
            yield f'<text x="{x + 4:.1f}" y="{y + 13}" font-size="11" fill="#fff">{count}</text>'
        x += count * width
