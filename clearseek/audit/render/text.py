"""An audit in a terminal: the verdict, then a line for each row with something to see, then what frameworks make of it.

In a terminal long texts go on below their beginning; in a pipe each line stays whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.text import Text

from clearseek.audit.evidence import Answer, Audit, Dimension, Row
from clearseek.audit.verdict import Verdict, verdict
from clearseek.audit.views import views
from clearseek.reading.evidence import amount
from clearseek.signing.tree import visible

MARKS: Final[dict[Answer, tuple[str, str]]] = {
    "yes": ("✓", "green"),
    "partly": ("◐", "yellow"),
    "no": ("✗", "red"),
    "unknown": ("?", "yellow"),
    "not applicable": ("-", "dim"),
}
"""Sign and colour of an answer."""
LEGEND: Final = (
    "E0 absent: not found; E1 claimed: a text says so; E2 linked: a text says where; E3 present: it is here; "
    "E4 cross-checked: it agrees with other files here; E5 re-executed: made again with the same result"
)
"""Grades in words: how far an answer has been shown."""
NOT_ASKED: Final = "An empty cell: the row was not asked of that release, for it has nothing that the row is about."
"""What a comparison leaves empty, in words."""
_LEAST_TITLE: Final = 32
"""Columns that a row's title has at least."""
DIMENSIONS: Final[dict[Dimension, str]] = {
    "technical": "What the weights are and allow",
    "definition": "What is open",
    "impact": "What it means in practice",
}


def mark(console: Console, answer: Answer) -> str:
    """An answer's sign; a terminal that cannot show the signs gets words, all of one width."""
    if console.encoding.lower().startswith("utf"):
        return MARKS[answer][0]
    return ("-" if answer == "not applicable" else answer).ljust(len("unknown"))


def differing(audits: Sequence[Audit], everything: bool = False) -> dict[Dimension, dict[str, str]]:
    """Dimension -> id -> title, of the rows whose answers or grades differ between releases, or of all."""
    found: dict[Dimension, dict[str, str]] = {}
    for dimension in DIMENSIONS:
        for id, title in {row.id: row.title for audit in audits for row in audit.of(dimension)}.items():
            rows = [audit.get(id) for audit in audits]
            if everything or len({(row.answer, row.grade) if row and row.tells else None for row in rows}) > 1:
                found.setdefault(dimension, {})[id] = title
    return found


def names_of(verdicts: Sequence[Verdict], audits: Sequence[Audit]) -> list[str]:
    """The models' names; where two releases are of one model, with their folders or repositories."""
    given = [each.model for each in verdicts]
    return [
        f"{name} ({audit.subject})" if given.count(name) > 1 else name
        for name, audit in zip(given, audits, strict=True)
    ]


def print_audit(console: Console, audit: Audit, evidence: bool = False, everything: bool = False) -> None:
    """Print the verdict and the rows that tell something, or all; with `evidence`, where to see each."""
    print_verdict(console, verdict(audit))
    size = f"{amount(audit.facts['files'], 'file')}, {audit.facts['bytes']:,} bytes, {visible(audit.subject)}"
    console.print(Text(f"\n{size}", style="dim"), soft_wrap=True)
    _print_legend(console)
    width = max((len(row.id) for row in audit), default=0)
    for dimension, question in DIMENSIONS.items():
        console.print(Text(f"\n{question}", style="bold"), soft_wrap=True)
        for row in audit.of(dimension):
            if everything or row.tells:
                _print_row(console, row, width, evidence)
    if left := sum(not everything and not row.tells for row in audit):
        text = f"{amount(left, 'more row')} do not apply, or have nothing to show: --all"
        console.print(Text(f"\n{text}", style="dim"), soft_wrap=True)
    console.print(Text("\nWhat frameworks make of it", style="bold"), soft_wrap=True)
    for view in views(audit):
        _print(console, Text(f"  {view.name}: "), Text(f"claimed: {view.claimed}; proven: {view.proven}"), 4)


def print_verdict(console: Console, found: Verdict) -> None:
    """Print the first screen: the sentence, which model was taken, and the six lines."""
    _print(console, Text(f"{visible(found.model)}: ", style="bold"), Text(visible(found.sentence), style="bold"), 0)
    if found.choice:
        _print(console, Text(), Text(visible(found.choice), style="yellow"), 0)
    width = max(len(line.label) for line in found.lines)
    for line in found.lines:
        head = _head(console, line.look, "", line.label.ljust(width + 2))
        _print(console, head, Text(visible(line.text)), head.cell_len)


def _print_legend(console: Console) -> None:
    named = ", ".join(f"{mark(console, answer)} {answer}" for answer in MARKS)
    answers = f"{named}. " if console.encoding.lower().startswith("utf") else ""
    console.print(Text(f"{answers}{LEGEND}", style="dim"), soft_wrap=not console.is_terminal)


def _print_row(console: Console, row: Row, width: int, evidence: bool) -> None:
    head = _head(console, row.answer, f"E{int(row.grade)}  ", row.id.ljust(width + 2))
    _print(console, head, Text(visible(row.reason)), head.cell_len)
    for each in row.evidence if evidence else ():
        indent = Text(" " * head.cell_len)
        _print(console, indent, Text(visible(str(each)), style="dim"), head.cell_len)


def _head(console: Console, answer: Answer | None, grade: str, name: str) -> Text:
    if answer is None:
        return Text(f"  {' ' * len(mark(console, 'yes'))} {grade}{name}")
    return Text.assemble((f"  {mark(console, answer)} ", MARKS[answer][1]), (grade, "dim"), name)


def _print(console: Console, head: Text, body: Text, indent: int) -> None:
    """Print a text after its head; what does not fit goes on below, so many columns from the left."""
    if not console.is_terminal or console.width < indent + 20:
        console.print(head + body, soft_wrap=True)
        return
    lines = (Text(" " * (head.cell_len - indent)) + body).wrap(console, console.width - indent)
    lines[0] = head + lines[0][head.cell_len - indent :]
    for number, line in enumerate(lines):
        console.print(Text(" " * indent * (number > 0)) + line, soft_wrap=True)


def print_comparison(console: Console, audits: Sequence[Audit], everything: bool = False) -> None:
    """Each release's verdict and licence, then the rows that differ: a line a row, a narrow column a release."""
    verdicts = list(map(verdict, audits))
    for number, (found, name, audit) in enumerate(zip(verdicts, names_of(verdicts, audits), audits, strict=True), 1):
        head = Text.assemble((f"{number}  {visible(name)}: ", "bold"))
        _print(console, head, Text(visible(found.sentence)), 3)
        _print(console, Text("   licence: "), Text(visible(found.licence)), 3)
        if found.choice:
            _print(console, Text("   "), Text(visible(found.choice), style="yellow"), 3)
        for view in views(audit) if everything else ():
            _print(console, Text(f"   {view.name}: "), Text(f"claimed: {view.claimed}; proven: {view.proven}"), 3)
    rows = differing(audits, everything)
    most = max(1, (console.width - _LEAST_TITLE) // 6)
    console.print(Text(f"\n{'All rows' if everything else 'Rows that differ (--all shows all)'}", style="bold"))
    _print_legend(console)
    console.print(Text(NOT_ASKED, style="dim"), soft_wrap=not console.is_terminal)
    for first in range(0, len(audits), most):
        chosen = audits[first : first + most]
        for dimension, ids in rows.items():
            names = "".join(f"{number:<6}" for number in range(first + 1, first + 1 + len(chosen)))
            console.print(Text(f"\n{names}{DIMENSIONS[dimension]}", style="bold"), soft_wrap=True)
            for id, title in ids.items():
                cells = _cells(console, [audit.get(id) for audit in chosen])
                _print(console, cells, Text.assemble(title, (f"  {id}", "dim")), cells.cell_len)


def _cells(console: Console, rows: Sequence[Row | None]) -> Text:
    line = Text()
    for row in rows:
        cell = f"{mark(console, row.answer)[0]} E{int(row.grade)}" if row else ""
        line += Text(cell.ljust(6), style=MARKS[row.answer][1] if row else "")
    return line
