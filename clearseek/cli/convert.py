"""``clearseek convert``: a checkpoint from FP8 to BF16 or back, with progress and the time left."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from clearseek.cli.exits import INTERRUPTED
from clearseek.program import command

if TYPE_CHECKING:
    from clearseek.hub.convert.run import ConversionProgress, Converted


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example:\n  clearseek convert DeepSeek-V3 v3-bf16 --dtype bf16"
    parser.add_argument("folder", type=Path, help="folder with config.json and safetensors")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--dtype", choices=("fp8", "bf16"), required=True, help="what to make")
    parser.add_argument("--scales", choices=("float", "power-of-two"),
                        help="scales of FP8 blocks: float as in V3, power-of-two as in V3.1 (default: as before the "
                        "weights were converted to BF16, where that is known, else float)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from clearseek.cli.report import print_json
    from clearseek.hub.convert.run import convert_checkpoint
    from clearseek.interrupts import stop_on_signal
    from clearseek.machine import keep_heap

    keep_heap()
    asked = Event()
    with stop_on_signal(asked.set), _progress(quiet=arguments.json) as progress:
        ended = convert_checkpoint(
            arguments.folder, arguments.out, arguments.dtype, arguments.scales, progress=progress, stop=asked.is_set
        )
    if arguments.json:
        print_json({"out": str(arguments.out), **asdict(ended)})
    elif ended.finished:
        print(f"{arguments.out}: {_summary(ended)}")
    else:
        scales = ("--scales", arguments.scales) if arguments.scales else ()
        again = command("convert", arguments.folder, arguments.out, "--dtype", arguments.dtype, *scales)
        print(f"stopped with {ended.files_done} of {ended.files} files done; go on with: {again}")
    return 0 if ended.finished else INTERRUPTED


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[ConversionProgress], None]]:
    """A progress callback for the conversion: a bar in a terminal, one line a file elsewhere, nothing when `quiet`."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    console, start, said = Console(stderr=True), time.monotonic(), -1
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[speed]}"))
    live = console.is_terminal and not quiet
    with Bars(*columns, console=console, transient=True) if live else nullcontext() as bars:
        if bars is not None:
            bars.add_task("converting", total=None, speed="")

        def show(now: ConversionProgress) -> None:
            nonlocal said
            file = f"{now.file}  {min(now.files_done + 1, now.files)} of {now.files}"
            speed = _speed(now, time.monotonic() - start)
            if bars is not None:
                bars.update(bars.task_ids[0], description=file, completed=now.bytes_done, total=now.bytes, speed=speed)
            elif not quiet and said < now.files_done < now.files:
                said = now.files_done
                console.print(f"{file}  {speed}".rstrip(), markup=False, soft_wrap=True, highlight=False)

        yield show


def _speed(now: ConversionProgress, seconds: float) -> str:
    """Bytes a second and the time left, or an empty string while it is too early to say."""
    read = now.bytes_done - now.bytes_before
    if not read or seconds < 0.5:
        return ""
    left = int((now.bytes - now.bytes_done) * seconds / read)
    return f"{read / seconds / 1e6:,.0f} MB/s  {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"


def _summary(ended: Converted) -> str:
    """The result in words."""
    text = f"{ended.tensors:,} tensors as {ended.dtype.upper()}"
    if ended.dtype == "fp8":
        text += f", {ended.scales} scales"
        if ended.kept:
            text += f"; {ended.kept:,} of {ended.blocks:,} blocks have their old scale"
        if ended.restores:
            text += "; files and order are the old ones"
    if ended.left_out:
        text += f"; not copied, too large: {', '.join(ended.left_out)}"
    return text
