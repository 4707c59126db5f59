"""Scores of an evaluation as a table for people, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearseek.errors import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from clearseek.evaluate.records import Index
    from clearseek.evaluate.scores import Varied, Versus


def show(
    folder: Path, index: Index, compared: Sequence[Versus] = (), spread: Sequence[Varied] = (), other: str = ""
) -> None:
    """Print scores, what to know of them, a table and sentences on an `other` model, and sentences on other ways."""
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
    _fill(table, columns, [[name, *_row(task.scores, fixed)] for name, task in index.tasks.items()])
    console.print(table, crop=False)
    for name, task in index.tasks.items():
        for remark in _remarks(task.scores):
            _say(console, f"{name}: {remark}")
    if compared:
        _show_versus(console, named(folder), other, compared)
    sentences = [(each.task, each.sentence()) for each in compared] + [(each.task, each.sentence()) for each in spread]
    for name, sentence in sentences:
        _say(console, f"{name}: {sentence}")
    console.print(f"records: {folder}", markup=False, soft_wrap=True)


def named(folder: Path) -> str:
    """Name of an evaluation's model, with the one that an endpoint says it serves under it."""
    from clearseek.evaluate.records import read_index, served_in

    name, served = str(read_index(folder).model["name"]), served_in(folder)
    return f"{name}, served as {served}" if served and served != name else name


def _say(console: Console, sentence: str) -> None:
    """Print a sentence on one line, so that a pipe gets it whole."""
    console.print(one_line(sentence), markup=False, soft_wrap=True)


def _show_versus(console: Console, first: str, second: str, compared: Sequence[Versus]) -> None:
    """Print a table of both models' scores, a line for each task."""
    from rich.table import Table
    from rich.text import Text

    from clearseek.evaluate.comparison import told_p
    from clearseek.evaluate.scores import SHARE

    title = f"{first} (first) against {second} (second), on the questions that both answered"
    table = Table(title=Text(one_line(title)), title_justify="left")
    several = len(compared) > 1
    rows = []
    for each in compared:
        said, share = each.values(), each.unit == SHARE
        scores = [shown(said[name], share) for name in ("first", "second")]
        ends = [signed(end, share) for end in said["interval"]]
        rows.append([each.task, *scores, signed(said["difference"], share), " to ".join(ends),
                     told_p(each.found.p).removeprefix("p ").removeprefix("= ")])  # fmt: skip
    _fill(table, ["task", "first", "second", "difference", "95 %", "p, Holm's" if several else "p"], rows)
    console.print(table, crop=False)
    if several:
        _say(console, f"p-values are Holm's over {len(compared)} tasks, so that all verdicts hold together:")


def _fill(table: Table, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Give a table its rows: where it is too wide, the tasks' names are folded, and no number is cut."""
    from rich.text import Text

    for number, name in enumerate(columns):
        words = " ".join([name, *(row[number] for row in rows)]).split() if number else []
        table.add_column(
            name, justify="right" if number else "left", overflow="fold", min_width=max(map(len, words), default=None)
        )
    for task, *cells in rows:
        table.add_row(Text(one_line(task)), *cells)


def shown(value: float, share: bool) -> str:
    """A score as people read it: a share in percent, or bits."""
    return f"{100 * value:.1f} %" if share else f"{value:.4f}"


def signed(value: float, share: bool) -> str:
    """A difference of scores: of shares in points, or of bits."""
    return f"{100 * value:+.1f}" if share else f"{value:+.4f}"


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

    def interval(name: str) -> str:
        found = said.get(name)
        if not found:
            return ""
        ends = [f"{100 * each:.1f}" if share else f"{each:.4f}" for each in found]
        return " to ".join(ends) + (" %" if share else "")

    score = "none" if said["score"] is None else shown(said["score"], share)
    intervals = [interval("sampled"), *[interval("fixed")] * fixed]
    return [score, *intervals, f"{said['questions']:,}", f"{said['missing']:,}"]


def as_json(
    folder: Path, index: Index, compared: Sequence[Versus], spread: Sequence[Varied], other: str = ""
) -> dict[str, Any]:
    """Scores, and comparisons with an `other` model or ways, as JSON values."""
    from dataclasses import asdict

    found = {each.task: _finite(each.values()) for each in compared}
    ways = {each.task: asdict(each.found) | {"sentence": each.sentence()} for each in spread}
    said = {"folder": str(folder), **index.model_dump(mode="json")}
    return said | ({"against": found, "other": other} if compared else {}) | ({"variants": ways} if spread else {})


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Values that JSON has: None for infinity."""
    return {name: None if value in (float("inf"), float("-inf")) else value for name, value in values.items()}
