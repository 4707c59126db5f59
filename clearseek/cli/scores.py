"""Scores of an evaluation as a table for people, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearseek.errors import one_line

if TYPE_CHECKING:
    from clearseek.evaluate.records import Index
    from clearseek.evaluate.scores import Varied, Versus


def show(folder: Path, index: Index, sentences: Sequence[Versus | Varied]) -> None:
    """Print scores, what to know of them, and sentences on other models or ways."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table(title=Text(one_line(str(index.model["name"]))), title_justify="left")  # a stranger's name
    fixed = any("fixed" in task.scores for task in index.tasks.values())
    columns = [
        "task",
        "score",
        "95 %: questions like these",
        *["95 %: these questions"] * fixed,
        "questions",
        "missing",
    ]
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=number in (0, len(columns) - 1))
    for name, task in index.tasks.items():
        table.add_row(Text(one_line(name)), *_row(task.scores, fixed))
    console.print(table)
    for name, task in index.tasks.items():
        for remark in _remarks(task.scores):
            console.print(one_line(f"{name}: {remark}"), markup=False)
    for each in sentences:
        console.print(one_line(f"{each.task}: {each.sentence()}"), markup=False)
    console.print(f"records: {folder}", markup=False)


def _remarks(said: Mapping[str, Any]) -> list[str]:
    """What a score does not say: why most answers are not right, why some are missing, pass@k."""
    remarks = []
    notes = {note: count for note, count in said.get("notes", {}).items() if note != "right"}
    if notes and said["score"] is not None and said["score"] < 0.5:
        note = max(notes, key=notes.__getitem__)
        remarks.append(f"{notes[note]:,} of {sum(said['notes'].values()):,} answers: {note}")
    if why := said.get("why_missing"):
        remarks.append(f"{said['missing']:,} missing, such as: {next(iter(why)):.200}")
    if len(found := said.get("pass_at", {})) > 1:
        remarks.append(", ".join(f"pass@{k} {100 * value:.1f} %" for k, value in found.items()))
    return remarks


def _row(said: Mapping[str, Any], fixed: bool) -> list[str]:
    """Score and intervals of 95 % as people read them."""
    share = said["unit"] == "share"

    def shown(value: float) -> str:
        return f"{100 * value:.1f} %" if share else f"{value:.4f}"

    def interval(name: str) -> str:
        found = said.get(name)
        if not found:
            return ""
        ends = [f"{100 * each:.1f}" if share else f"{each:.4f}" for each in found]
        return " to ".join(ends) + (" %" if share else "")

    score = "none" if said["score"] is None else shown(said["score"])
    intervals = [interval("sampled"), *[interval("fixed")] * fixed]
    return [score, *intervals, f"{said['questions']:,}", f"{said['missing']:,}"]


def as_json(folder: Path, index: Index, compared: Sequence[Versus], spread: Sequence[Varied]) -> dict[str, Any]:
    """Scores, and sentences on other models or ways, as JSON values."""
    from dataclasses import asdict

    found = {each.task: _finite(each.values()) for each in compared}
    ways = {each.task: asdict(each.found) | {"sentence": each.sentence()} for each in spread}
    said = {"folder": str(folder), **index.model_dump(mode="json")}
    return said | ({"against": found} if compared else {}) | ({"variants": ways} if spread else {})


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Values that JSON has: None for infinity."""
    return {name: None if value in (float("inf"), float("-inf")) else value for name, value in values.items()}
