"""How far the preparation of data has come, for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

STAGES = {"read": "reading documents", "tokenizer": "training the tokenizer", "tokenise": "tokenising"}


@contextmanager
def data_progress(console: Console, quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A progress callback for `prepare`: bars with ETA in a terminal, one line a stage elsewhere."""
    if not console.is_terminal or quiet:
        seen: set[str] = set()

        def line(stage: str, done: int, total: int) -> None:
            if stage not in seen and not quiet:
                seen.add(stage)
                console.print(STAGES.get(stage, stage), markup=False)

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[str, Any] = {}

        def bar(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(STAGES.get(stage, stage), total=total or None)
            progress.update(tasks[stage], completed=done, total=total or None)

        yield bar
