"""An audit in a terminal: three questions, a line a row, then what the frameworks make of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.text import Text

from clearseek.audit.evidence import Answer, Audit, Dimension, Row
from clearseek.audit.views import View, views
from clearseek.signing.tree import visible

MARKS: Final[dict[Answer, tuple[str, str]]] = {
    "yes": ("✓", "green"),
    "partly": ("◐", "yellow"),
    "no": ("✗", "red"),
    "unknown": ("?", "yellow"),
    "not applicable": ("-", "dim"),
}
"""Sign and colour of an answer."""
LEGEND: Final = "E0 absent, E1 claimed, E2 linked, E3 present, E4 cross-checked, E5 re-executed"
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


def _legend(console: Console) -> str:
    named = ", ".join(f"{mark(console, answer)} {answer}" for answer in MARKS)
    return f"{named}; {LEGEND}" if console.encoding.lower().startswith("utf") else f"- not applicable; {LEGEND}"


def print_audit(console: Console, audit: Audit, evidence: bool = False) -> None:
    """Print all rows; with `evidence`, where to see each."""
    name, size = visible(str(audit.facts["name"])), audit.facts["bytes"]
    head = Text(f"{name}", style="bold") + Text(
        f"  {audit.facts['files']:,} files, {size:,} bytes, {visible(audit.subject)}"
    )
    console.print(head, soft_wrap=True)
    width = max(len(row.id) for row in audit)
    for dimension, question in DIMENSIONS.items():
        console.print(Text(f"\n{question}", style="bold"), soft_wrap=True)
        for row in audit.of(dimension):
            _print_row(console, row, width, evidence)
    console.print(Text("\nWhat frameworks make of it", style="bold"), soft_wrap=True)
    found = views(audit)
    widest = max(len(view.name) for view in found)
    for view in found:
        line = f"  {view.name.ljust(widest)}  claimed: {view.claimed};  proven: {view.proven}"
        console.print(Text(line), soft_wrap=True)
    console.print()
    console.print(Text(_legend(console), style="dim"), soft_wrap=True)
    console.print(Text(headline(audit, found[0]), style="bold"), soft_wrap=True)


def _print_row(console: Console, row: Row, width: int, evidence: bool) -> None:
    line = (
        Text(f"  {mark(console, row.answer)} ", style=MARKS[row.answer][1])
        + Text(f"E{int(row.grade)}  ", style="dim")
        + Text(row.id.ljust(width + 2))
    )
    console.print(line + Text(visible(row.reason)), soft_wrap=True)
    for each in row.evidence if evidence else ():
        console.print(Text(f"{' ' * (width + 10)}{visible(str(each))}", style="dim"), soft_wrap=True)


def headline(audit: Audit, plain: View) -> str:
    """The gap between what is claimed and what is proven, in a sentence."""
    rows = [row for row in audit.of("definition") if row.answer != "not applicable"]
    claimed, proven = sum(row.claimed for row in rows), sum(row.proven for row in rows)
    parts = ", ".join(f"{entry.name} {MARKS[entry.claimed][0]}" for entry in plain.entries)
    return f"{parts}. Of {len(rows)} things that make a model open, {claimed} are claimed and {proven} are proven here."


def print_comparison(console: Console, audits: Sequence[Audit]) -> None:
    """Releases side by side: a line an assertion, a column a release."""
    ids = list(dict.fromkeys(row.id for audit in audits for row in audit))
    names = [visible(str(audit.facts["name"]))[:24] for audit in audits]
    widths = [max(len(name), len(mark(console, "yes")) + 3) + 2 for name in names]
    label = max(map(len, ids)) + 2
    head = "".join(name.ljust(width) for name, width in zip(names, widths, strict=True))
    console.print(Text(" " * label + head, style="bold"), soft_wrap=True)
    for id in ids:
        line = Text(id.ljust(label))
        for audit, width in zip(audits, widths, strict=True):
            row = audit.get(id)
            cell = f"{mark(console, row.answer)} E{int(row.grade)}" if row else ""
            line += Text(cell.ljust(width), style=MARKS[row.answer][1] if row else "")
        console.print(line, soft_wrap=True)
    console.print()
    found = [views(audit) for audit in audits]
    for place, view in enumerate(found[0]):
        console.print(Text(view.name, style="bold"), soft_wrap=True)
        for name, each in zip(names, found, strict=True):
            result = f"  {name.ljust(26)}claimed: {each[place].claimed};  proven: {each[place].proven}"
            console.print(Text(result), soft_wrap=True)
    console.print(Text(_legend(console), style="dim"), soft_wrap=True)
