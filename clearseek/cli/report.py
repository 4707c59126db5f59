"""Tables of several commands. Lines are never broken, so that a pipe gets each fact whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from clearseek.counts import ParameterCount
from clearseek.hub.portability import Finding

Rows = list[tuple[str, str]]
"""Rows of a table: names and values."""


def output() -> Console:
    """Standard output, with only the colours asked for."""
    return Console(highlight=False)


def print_json(value: Any) -> None:
    """Print a value as JSON, the whole of standard output."""
    print(json.dumps(value, indent=1))


def print_rows(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values in two columns."""
    width = 2 + max(len(name) for name, _ in rows)
    for name, value in rows:
        console.print(Text(name.ljust(width), style="dim") + Text(value), soft_wrap=True)


def print_columns(console: Console, rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Print a table, cells aligned left or, in the columns `right`, right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.rjust(width) if column in right else cell.ljust(width)
                 for column, (cell, width) in enumerate(zip(row, widths, strict=True))]  # fmt: skip
        console.print("  ".join(cells).rstrip(), markup=False, soft_wrap=True)


def si(value: float, unit: str = "") -> str:
    """A number with a decimal prefix: 12,402,176 -> ``12.4 M``."""
    for power, prefix in zip(range(24, 0, -3), "YZEPTGMk", strict=True):
        if abs(value) >= 10**power:
            return f"{value / 10**power:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}".rstrip()


def unit(size: float) -> tuple[float, str]:
    """The decimal unit that fits a number of bytes, for a table of which it is the largest: its bytes and its name.

    Memory of devices is sold in GB, so that is the largest unit.
    """
    return next(((scale, name) for scale, name in ((1e9, "GB"), (1e6, "MB")) if size >= scale), (1e3, "kB"))


def parameter_rows(count: ParameterCount) -> Rows:
    """Rows of a model's parameters, and of the activated ones by each way of counting."""
    return [
        ("parameters", f"{count.total:,}" + f" + {count.mtp:,} MTP" * bool(count.mtp)),
        ("activated", f"{count.activated:,} with input embedding and output head"),
        ("", f"{count.activated_without_embedding:,} without the embedding lookup"),
        ("", f"{count.activated_without_embedding_and_head:,} without embedding and head"),
    ]


def print_findings(console: Console, findings: Sequence[Finding]) -> None:
    """Print findings about other engines."""
    colours = {"error": "red", "warning": "yellow", "note": "dim"}
    for finding in findings:
        head = Text(f"{finding.severity}: ", style=colours.get(finding.severity, ""))
        console.print(head + Text(f"{finding.tool}: {finding.message}"), soft_wrap=True)
