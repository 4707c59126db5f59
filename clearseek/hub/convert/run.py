"""Conversion of checkpoints from FP8 to BF16 and back, on a machine of any size.

DeepSeek publishes weights in eight bits; most tools want BF16, and no official tool converts back. Here both directions
are a stream: one weight file after the other, in pieces, so memory stays small for a model of any size, without a GPU.
The output folder is a checkpoint only once it is complete (config.json comes last); until then it holds whole files and
a journal of them, and the same command goes on after Ctrl-C, a kill or a full disk. From FP8 to BF16 and back gives the
same bytes (:mod:`clearseek.hub.convert.origin`). Formats: DeepSeek-V3's README_WEIGHTS.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from clearseek.errors import UserError
from clearseek.files import atomic_file, reading, remove_leftovers, write_atomic, writing
from clearseek.hub.config_json import Scales
from clearseek.hub.convert.journal import JOURNAL, Journal, identify
from clearseek.hub.convert.plan import ConversionPlan, Dtype, Output, plan_conversion
from clearseek.hub.convert.stream import Files, Stopped, check_scales, stream
from clearseek.hub.folder import open_checkpoint
from clearseek.locks import exclusive

MOST_THREADS = 8
_LOCK = ".lock"
"""Lock file in the output folder while a process writes there."""


class ConversionProgress(NamedTuple):
    """Progress of a conversion."""

    file: str
    """Name of the file being written."""
    files_done: int
    """Number of files done."""
    files: int
    """Number of all files."""
    bytes_done: int
    """Bytes of tensors read."""
    bytes: int
    """Bytes of all tensors to read."""
    bytes_before: int
    """Bytes of tensors that earlier attempts had read."""


@dataclass(frozen=True)
class Converted:
    """Result of a conversion."""

    finished: bool
    """Whether the output is complete; else the same call goes on."""
    dtype: Dtype
    """Type of the output."""
    scales: Scales
    """Kind of scales on the FP8 side."""
    files: int
    """Number of weight files, the record beside a BF16 checkpoint included."""
    files_done: int
    """Number of weight files done."""
    tensors: int
    """Number of tensors of the output."""
    blocks: int
    """Number of blocks quantised to FP8."""
    kept: int
    """Number of blocks that took the scale that they had before."""
    restores: bool
    """Whether an FP8 output has the files and order of the checkpoint that the source was made from."""
    bytes_read: int
    """Bytes of tensors read in this attempt."""
    bytes_written: int
    """Bytes written in this attempt."""
    seconds: float
    """Seconds of this attempt."""
    left_out: tuple[str, ...]
    """Files beside the weights that are too large to be copied along."""


def convert_checkpoint(
    source: str | Path,
    out: str | Path,
    dtype: Dtype,
    scales: Scales | None = None,
    progress: Callable[[ConversionProgress], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> Converted:
    """Convert a DeepSeek-V3 checkpoint between block FP8 and BF16, or go on with an unfinished conversion.

    Args:
        source: Folder with config.json and safetensors; it is only read.
        out: Folder to make: absent, empty, or with an unfinished conversion of the same.
        dtype: Type to convert to.
        scales: Kind of scales of new FP8 blocks. None takes the kind that `source` had before it became BF16, where
            that is on record, and else ``float``, DeepSeek-V3's.
        progress: Called as the work goes on.
        stop: Called often; a true answer ends the conversion early, which keeps the files that are whole.

    Raises:
        UserError: `source` is damaged or of another format, `out` holds something else, the disk is full or not
            writable. `out` keeps the files that are whole, and nothing else.
    """
    source, out = Path(source), Path(out)
    start = time.monotonic()
    _refuse_places(source, out)
    plan = plan_conversion(open_checkpoint(source), dtype, scales)
    _refuse_clashes(plan)
    check_scales(plan)
    journal = Journal(out, source, identify(plan))
    finished, written = False, 0
    with _claimed(journal, plan):
        todo = [output for output in plan.outputs if not journal.is_done(output)]
        for output in todo:
            journal.done.pop(output.name, None)
        _refuse_full_disk(out, plan, todo)
        meter = _Meter(plan, todo, progress, stop)
        with suppress(Stopped):
            _write_files(plan, todo, journal, meter)
            written = _finish(plan, journal)
            finished = True
        written += sum(output.header.file_bytes for output in todo if output.name in journal.done)
    if finished:  # after the lock, which a kill would otherwise leave in a finished checkpoint
        with writing(journal.file):
            journal.file.unlink(missing_ok=True)
    blocks, kept = journal.blocks()
    return Converted(
        finished=finished,
        dtype=dtype,
        scales=plan.scales,
        files=len(plan.outputs),
        files_done=meter.files_done,
        tensors=sum(len(output.header.entries) for output in plan.outputs if "/" not in output.name),
        blocks=blocks,
        kept=kept,
        restores=plan.restores,
        bytes_read=meter.done - meter.before,
        bytes_written=written,
        seconds=time.monotonic() - start,
        left_out=plan.source.left_out,
    )


def _refuse_places(source: Path, out: Path) -> None:
    inside, outside = out.resolve(), source.resolve()
    if inside == outside:
        raise UserError(f"{out}: is the checkpoint to convert itself: choose another folder for the output")
    if outside in inside.parents:
        raise UserError(f"{out}: lies inside the checkpoint to convert: choose a folder outside of {source}")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file: choose a folder")
    if out.is_dir() and not (out / JOURNAL).exists():
        with writing(out):
            names = sorted(path.name for path in out.iterdir())
        # A kill may have left the lock and the temporary of the first journal.
        if any(not name.startswith(f".{JOURNAL}.") and name != _LOCK for name in names):
            raise UserError(
                f"{out}: not empty and not an unfinished conversion (it holds {', '.join(names[:3])}): choose another "
                "folder or empty this one"
            )


def _refuse_clashes(plan: ConversionPlan) -> None:
    names = [output.name for output in plan.outputs]
    clashes = sorted(set(names) & {*plan.source.small_files, *plan.texts, JOURNAL, _LOCK})
    if clashes:
        raise UserError(f"{plan.source.folder / clashes[0]}: a weight file of the output has this name: rename it")


@contextmanager
def _claimed(journal: Journal, plan: ConversionPlan) -> Iterator[None]:
    """Hold the output folder for this process alone, and remove it again if it stays empty."""
    out = journal.out
    new = not out.exists()
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as stack:
            with writing(out):
                stack.enter_context(exclusive(out / _LOCK, str(out)))
            _refuse_places(plan.source.folder, out)  # another conversion may have ended here meanwhile
            remove_leftovers(out)
            if journal.file.exists():
                journal.load()
                _refuse_foreign(out, plan)
            try:
                yield
            finally:
                with suppress(OSError):
                    if {path.name for path in out.iterdir()} <= {JOURNAL, _LOCK}:
                        journal.file.unlink()
    finally:
        if new:
            with suppress(OSError):  # fails unless the folder is empty
                out.rmdir()


def _refuse_foreign(out: Path, plan: ConversionPlan) -> None:
    """Raise UserError for files of other origin, which would be overwritten or taken for part of the conversion."""
    ours = {*(output.name for output in plan.outputs), *plan.texts, *plan.source.small_files, JOURNAL, _LOCK}
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()}
    if found - ours:
        raise UserError(f"{out / min(found - ours)}: not part of the unfinished conversion there: move it away")


def _refuse_full_disk(out: Path, plan: ConversionPlan, todo: list[Output]) -> None:
    sizes = [output.header.file_bytes for output in todo] + [len(raw) for raw in plan.texts.values()]
    with suppress(OSError):
        sizes += [(plan.source.folder / name).stat().st_size for name in plan.source.small_files]
    needed, free = sum(sizes) + 8192 * (len(sizes) + 1), shutil.disk_usage(out).free
    if needed > free:
        raise UserError(
            f"{out}: the disk is too full: {needed:,} bytes are needed and {free:,} are free: make room, or choose a "
            "folder on another disk"
        )


class _Meter:
    """Reports progress, and ends the work when asked to stop."""

    def __init__(
        self,
        plan: ConversionPlan,
        todo: list[Output],
        progress: Callable[[ConversionProgress], None],
        stop: Callable[[], bool],
    ):
        self.total = sum(output.read_bytes for output in plan.outputs)
        self.before = self.done = self.total - sum(output.read_bytes for output in todo)
        self.files, self.files_done = len(plan.outputs), len(plan.outputs) - len(todo)
        self.file = ""
        self._progress, self._stop = progress, stop

    def tick(self, read: int) -> None:
        """Add bytes read, and report."""
        self.done += read
        self._progress(ConversionProgress(self.file, self.files_done, self.files, self.done, self.total, self.before))
        if self._stop():
            raise Stopped


def _write_files(plan: ConversionPlan, todo: list[Output], journal: Journal, meter: _Meter) -> None:
    journal.save()
    with _threads() as pool, Files(plan.source.folder) as files:
        for output in todo:
            meter.file = output.name
            meter.tick(0)
            sources = journal.sources_of(output)
            with atomic_file(journal.out / output.name, output.header.file_bytes) as file:
                file.write(output.header.raw)
                file.flush()
                done = stream(output, plan.scales == "power-of-two", files, file.fileno(), pool, meter.tick)
            journal.add(output, done, sources)
            meter.files_done += 1
            meter.tick(0)


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """A pool of as many threads as torch would use, each of which computes alone."""
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(min(MOST_THREADS, number), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(number)


def _finish(plan: ConversionPlan, journal: Journal) -> int:
    """Write the files beside the weights, config.json last; the number of bytes."""
    written = 0
    for name in (*plan.source.small_files, *plan.texts):
        file = plan.source.folder / name
        with reading(file):
            raw = plan.texts[name] if name in plan.texts else file.read_bytes()
        write_atomic(journal.out / name, raw)
        written += len(raw)
    return written
