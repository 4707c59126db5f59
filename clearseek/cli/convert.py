"""A conversion as people see it: how far it is, how fast, how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars

from clearseek.hub.convert.run import Converted, Progress


@contextmanager
def convert_progress(console: Console, quiet: bool = False) -> Iterator[Callable[[Progress], None]]:
    """A progress callback for `convert`: a bar in a terminal, one line a file elsewhere, nothing when `quiet`."""
    start = time.monotonic()

    def speed(now: Progress) -> str:
        seconds = time.monotonic() - start
        read = now.bytes_done - now.bytes_before
        if not read or seconds < 0.5:
            return ""
        left = int((now.bytes - now.bytes_done) * seconds / read)
        return f"{read / seconds / 1e6:,.0f} MB/s  {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"

    if quiet:
        yield lambda _: None
    elif console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[speed]}"))
        with Bars(*columns, console=console, transient=True) as bars:
            task = bars.add_task("converting", total=None, speed="")

            def bar(now: Progress) -> None:
                text = f"{now.file}  {min(now.files_done + 1, now.files)} of {now.files}"
                bars.update(task, description=text, completed=now.bytes_done, total=now.bytes, speed=speed(now))

            yield bar
    else:
        said = -1

        def line(now: Progress) -> None:
            nonlocal said
            if now.files_done > said and now.files_done < now.files:
                said = now.files_done
                file = f"{now.file}  {now.files_done + 1} of {now.files}  {speed(now)}"
                console.print(file.rstrip(), markup=False, soft_wrap=True, highlight=False)

        yield line


def summary(ended: Converted) -> str:
    """What was made, in words."""
    scales = f", {ended.scales} scales" if ended.dtype == "fp8" else ""
    text = f"{ended.tensors:,} tensors as {ended.dtype.upper()}{scales}"
    if ended.dtype == "fp8":
        if ended.kept:
            text += f"; {ended.kept:,} of {ended.blocks:,} blocks have the scale they once had"
        if ended.restores:
            text += "; files and order are as they were"
    if ended.left_out:
        text += f"; not copied, too large: {', '.join(ended.left_out)}"
    return text
