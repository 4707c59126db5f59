"""Display of progress while data are made and a model trains.

In a terminal, one panel is redrawn in place: progress, losses, speed as a share of this machine's measured peak, and
the load of each layer's experts. In a file or a pipe, plain lines come at a human pace. The display does not touch the
training: it draws between steps, at most a few times a second.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from clearseek.train.record import HELD_OUT, HELD_OUT_NATS, MEASURED, MTP_LOSS, StepRecord

_REDRAW_SECONDS = 0.25
_WORDS = {
    MTP_LOSS: ("mtp", ".4f"),
    "reward": ("reward", ".3f"),
    "groups_without_spread": ("no spread", ".0%"),
    "entropy": ("entropy", ".3f"),
    "length": ("length", ".1f"),
    "truncated": ("cut off", ".0%"),
    "ended": ("ended", ".0%"),
}
"""Words and formats of measurements by name; others have their names, and four places."""
_REWARDED = ("reward", "groups_without_spread", "entropy", "length", "truncated")
"""What is shown of a step that learns from rewards: its loss says nothing of progress."""
_UNITS = {HELD_OUT: "bits/byte", HELD_OUT_NATS: "nats/token"}
"""Units of figures of held-out data that need no name."""
_BEFORE = "_before"
"""How names of the parent's figures end."""
_ETA_WINDOW = 50  # steps that the remaining time is judged by
_BLOCKS, _ASCII_BLOCKS = "▁▂▃▄▅▆▇█", ".:-=+*#@"


class Display:
    """Display of a run; a context manager, which restores the terminal however the run ends.

    Args:
        total_steps: Steps of the whole run.
        title: Name of the run.
        every_seconds: Seconds between lines in a pipe.
        console: Console to draw on; standard output by default. rich honours NO_COLOR.
        live: Whether to redraw in place; by default, whether the output is a terminal that can.
        clock: Function that gives seconds; replaced in tests.
    """

    def __init__(
        self,
        total_steps: int,
        title: str = "",
        *,
        every_seconds: float = 10.0,
        console: Console | None = None,
        live: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._title, self._clock = total_steps, title, clock
        self._every_seconds = every_seconds
        self._console = console or Console(highlight=False)
        if live is None:
            live = self._console.file.isatty() and not self._console.is_dumb_terminal
        self._live = Live(console=self._console, auto_refresh=False, transient=False) if live else None
        self._times: deque[tuple[int, float]] = deque(maxlen=_ETA_WINDOW)
        self._shown_at = float("-inf")
        self._shown_step = 0
        self._last: StepRecord | None = None
        self._held_out = ""

    def __enter__(self) -> Display:
        return self  # drawing begins with the first step, below earlier output

    def __exit__(self, *error: object) -> None:
        if self._last is not None and self._shown_step != self._last.step:
            self._show(self._last)  # also after a failure
        if self._live is not None:
            self._live.stop()

    def update(self, record: StepRecord) -> None:
        """Take in a finished step, and show it when due; the last step a second time, with its evaluation."""
        again = self._last is not None and self._last.step == record.step
        self._last = record
        if measured := _measured(record):
            self._held_out = f"{measured} (step {record.step})"
        if again:
            self._show_held_out(record)
            return
        now = self._clock()
        self._times.append((record.step, now))
        evaluated = self._live is None and bool(_measured(record))
        if self._due(now) or record.step == self._total or evaluated:
            self._show(record)

    def evaluating(self, done: int, total: int) -> None:
        """Show the progress of the final evaluation, when due."""
        now = self._clock()
        if not self._due(now):
            return
        self._shown_at = now
        text = f"evaluating on held-out data: {done:,} of {total:,}"
        if self._live is not None:
            self._draw(Text(text) if self._last is None else Group(self._panel(self._last), text))
        else:
            self._print(text)

    def _show_held_out(self, record: StepRecord) -> None:
        if self._live is not None:
            self._draw(self._panel(record))
        else:
            self._print(f"step {record.step}/{self._total}  held-out {_measured(record) or 'nothing'}")

    def _draw(self, shown: RenderableType) -> None:
        assert self._live is not None
        self._live.start()  # without effect once begun
        self._live.update(shown, refresh=True)

    def _due(self, now: float) -> bool:
        return now - self._shown_at >= (_REDRAW_SECONDS if self._live is not None else self._every_seconds)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._console.file.flush()

    def _show(self, record: StepRecord) -> None:
        self._shown_at, self._shown_step = self._clock(), record.step
        if self._live is not None:
            self._draw(self._panel(record))
        else:
            self._print(self._one_line(record))

    def _eta(self) -> str:
        (first, start), (last, end) = self._times[0], self._times[-1]
        if last >= self._total:
            return "done"
        if last == first:
            return "..."
        return duration((end - start) / (last - first) * (self._total - last))

    def _one_line(self, record: StepRecord) -> str:
        parts = [f"step {record.step}/{self._total}", *(f"{name} {value}" for name, value in _figures(record))]
        if measured := _measured(record):
            parts.append(f"held-out {measured}")
        parts += [f"grad {record.grad_norm:.3g}", f"lr {record.learning_rate:.2e}"]
        parts.append(f"{record.tokens_per_second:,.0f} tokens/s")
        if record.mfu is not None:
            parts.append(f"MFU {record.mfu:.0%}")
        if record.balance:
            parts.append(f"busiest expert {max(record.balance):.2f}x")
        return "  ".join([*parts, f"ETA {self._eta()}"])

    def _panel(self, record: StepRecord) -> Panel:
        top = Table.grid(expand=True, padding=(0, 1))
        top.add_column(no_wrap=True)
        top.add_column(ratio=1)
        top.add_column(justify="right", no_wrap=True)
        bar = ProgressBar(total=self._total, completed=record.step)
        top.add_row(f"step {record.step}/{self._total}", bar, f"{record.step / self._total:4.0%}  ETA {self._eta()}")
        (name, first), *others = _figures(record) or [("loss", "not measured")]
        rows = [
            (name, Text("   ".join([first, *(" ".join(each) for each in others)]), style="bold")),
            ("held-out", Text(self._held_out or "not yet")),
            ("speed", Text(_speed(record))),
            ("gradient", Text(f"norm {record.grad_norm:.3g}   learning rate {record.learning_rate:.2e}")),
        ]
        if record.balance:
            utf = self._console.encoding.lower().startswith("utf")
            rows.append(("experts", balance_bars(record.balance, ascii_only=not utf)))
        grid = Table.grid(padding=(0, 2))
        for name, value in rows:
            grid.add_row(Text(name, style="dim"), value)
        title, width = Text(self._title or "training"), min(100, self._console.width)
        return Panel(Group(top, grid), title=title, title_align="left", border_style="dim", width=width)


def _figures(record: StepRecord) -> list[tuple[str, str]]:
    """Measurements of the task in the step that people follow, by short names."""
    found, figures = record.scalars, list[tuple[str, str]]()
    for name in _REWARDED if "reward" in found else found:
        if name in found and not name.startswith(MEASURED):
            words, form = _WORDS.get(name, (name.replace("_", " "), ".4f"))
            figures.append((words, format(found[name], form)))
    return figures


def _speed(record: StepRecord) -> str:
    """Tokens a second and, where it is known, the share of the peak."""
    share = "" if record.mfu is None else f"   MFU {record.mfu:.1%} of the measured peak"
    return f"{record.tokens_per_second:,.0f} tokens/s{share}"


def _measured(record: StepRecord) -> str:
    """Figures of held-out data in the step, or an empty text; one with an interval is a share, in per cent."""
    found, scalars = list[str](), record.scalars
    for name in scalars:
        figure = name.removesuffix(_BEFORE)
        behind = name[len(figure) :]
        low, high = (scalars.get(f"{figure}_{end}{behind}") for end in ("low", "high"))
        if not name.startswith(MEASURED) or figure.endswith(("_low", "_high")):
            continue
        unit, value = _UNITS.get(figure), f"{scalars[name]:.4f}"
        if low is not None and high is not None:
            value = f"{100 * scalars[name]:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
        words = [figure.removeprefix(MEASURED).replace("_at_", "@").replace("_", " ")] if unit is None else []
        words += ["before"] * bool(behind)
        found.append(" ".join([*words, value, *([unit] if unit else [])]))
    return ", ".join(found)


def balance_bars(balance: Sequence[float], ascii_only: bool = False) -> Text:
    """One bar per layer for the load of its busiest expert over the mean load, and the highest load as a number.

    Bars grow from 1 (even) to 3 and more; colour adds emphasis above 1.5 and 2.5.
    """
    blocks = _ASCII_BLOCKS if ascii_only else _BLOCKS
    text = Text()
    for ratio in balance:
        height = min(1.0, max(0.0, (ratio - 1.0) / 2.0))
        style = "green" if ratio < 1.5 else "yellow" if ratio < 2.5 else "red"
        text.append(blocks[round(height * (len(blocks) - 1))], style=style)
    text.append(f"  busiest {max(balance):.2f}x the mean load")
    return text


def duration(seconds: float) -> str:
    """Seconds in words: ``42s``, ``3m05s``, ``2h07m``, ``3d04h``."""
    whole = round(seconds)
    for big, size, small, unit in (("d", 86400, 3600, "h"), ("h", 3600, 60, "m"), ("m", 60, 1, "s")):
        if whole >= size:
            return f"{whole // size}{big}{whole % size // small:02d}{unit}"
    return f"{whole}s"


STAGES = {
    "read": "reading documents",
    "conversations": "reading conversations",
    "tokenizer": "training the tokenizer",
    "tokenise": "tokenising",
    "teacher": "asking the teacher for its likeliest tokens",
    "texts": "the teacher writes",
}


class DataProgress:
    """Progress of `prepare_data`, which calls it: bars with ETA in a terminal, one line a stage elsewhere."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        self._lines = not (quiet or console.is_interactive)
        self._bars = Progress(*columns, console=console, transient=True, disable=quiet or self._lines)
        self._stages: dict[str, TaskID] = {}

    def close(self) -> None:
        """Restore the terminal, until the next call: then other lines can be printed."""
        self._bars.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._stages:
            name = STAGES.get(stage, stage)
            if self._lines:
                self._bars.console.print(name, markup=False)
            self._stages[stage] = self._bars.add_task(name, total=total or None)
        self._bars.start()
        self._bars.update(self._stages[stage], completed=done, total=total or None)
