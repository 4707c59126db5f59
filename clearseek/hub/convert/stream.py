"""One file of a conversion, streamed: pieces of matrices are read, computed and written where they belong.

A matrix is cut into rectangles of whole 128 x 128 blocks, about a million elements each, so memory does not depend on
the matrix, let alone the checkpoint. Pieces are independent, and a few threads work on them side by side. Reads and
writes are plain ones, and what has been read or written is taken out of the page cache again: the kernel would
otherwise fill the memory with pages that nobody needs, and writing then waits for it (measured: 240 MB/s with a full
page cache, 1,100 MB/s without, on one virtual machine).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, wait
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple

import torch
from torch import Tensor

from clearseek.errors import UserError
from clearseek.fp8.formats import TILE
from clearseek.hub.block_fp8 import DTYPE_NAMES, check_finite, check_scale, decode, encode, narrow_scale, wide_scale
from clearseek.hub.convert.plan import KEPT_DTYPES, Copy, Decode, Encode, Inline, Output, Plan, Task
from clearseek.hub.folder import Stored
from clearseek.hub.safetensors import DTYPE_BYTES, Entry

PIECE_ELEMENTS: Final = 1 << 20
WIDEST_PIECE: Final = 1 << 15
"""Columns; a wider matrix is cut along its columns too."""
COPY_BYTES: Final = 1 << 22
FLUSH_BYTES: Final = 1 << 26
AHEAD: Final = 32
"""Pieces that are handed to the threads at once."""
_TYPES: Final = {name: dtype for dtype, name in DTYPE_NAMES.items()}


class Stopped(Exception):  # noqa: N818 - an answer to a request, no error
    """Whoever asked for the conversion asked it to stop."""


class Done(NamedTuple):
    """What a piece, or a file, came to."""

    read: int
    """Bytes of tensors."""
    blocks: int = 0
    """Blocks quantised."""
    kept: int = 0
    """Of them, those that took their old scale."""


class Part(NamedTuple):
    """A rectangle of a matrix."""

    rows: slice
    columns: slice


@dataclass
class Files(AbstractContextManager["Files"]):
    """The source folder's files, opened when first needed."""

    folder: Path

    def __post_init__(self) -> None:
        self._handles: dict[str, int] = {}

    def open(self, names: list[str]) -> None:
        """Open these files, and close all others."""
        for name in [name for name in self._handles if name not in names]:
            os.close(self._handles.pop(name))
        for name in names:
            if name not in self._handles:
                try:
                    self._handles[name] = os.open(self.folder / name, os.O_RDONLY)
                except OSError as error:
                    raise UserError(f"{self.folder / name}: cannot read: {error.strerror}") from None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.open([])

    def where(self, stored: Stored) -> str:
        """File and tensor, to begin a message with."""
        return f"{self.folder / stored.file}: {stored.entry.name}"

    def bytes(self, stored: Stored, first: int, size: int) -> Tensor:
        """uint8 [size] of a tensor, from its byte `first` on."""
        raw = torch.empty(size, dtype=torch.uint8)
        self._read(stored, first, raw.numpy().data)
        _forget(self._handles[stored.file], stored.entry.begin + first, size)
        return raw

    def part(self, stored: Stored, part: Part) -> Tensor:
        """uint8 [rows, columns x element size] of a matrix."""
        width, column, size, steps = _strips(stored.entry, part)
        raw = torch.empty((part.rows.stop - part.rows.start, size), dtype=torch.uint8)
        if size == width:
            return self.bytes(stored, part.rows.start * width, raw.numel()).view(raw.shape)
        for index, row in enumerate(steps):
            self._read(stored, row * width + column, raw[index].numpy().data)
        return raw

    def scales(self, stored: Stored) -> Tensor:
        """FP32 [G, G], whole."""
        raw = self.bytes(stored, 0, stored.entry.size)
        return wide_scale(raw.view(torch.float32) if stored.entry.dtype == "F32" else raw).view(stored.entry.shape)

    def _read(self, stored: Stored, first: int, view: memoryview) -> None:
        at = stored.entry.begin + first
        while view:
            try:
                count = os.preadv(self._handles[stored.file], [view], at)
            except OSError as error:
                raise UserError(f"{self.folder / stored.file}: cannot read: {error.strerror}") from None
            if not count:
                raise UserError(f"{self.where(stored)}: the file ends before it: it was changed while being read")
            view, at = view[count:], at + count


def check_scales(plan: Plan) -> None:
    """Raise UserError if a scale of an FP8 checkpoint is not a positive number; few bytes, so it is done first."""
    scales = [task.scale for output in plan.outputs for task in output.tasks if isinstance(task, Decode)]
    with Files(plan.source.folder) as files:
        for stored in sorted(scales, key=lambda stored: (stored.file, stored.entry.begin)):
            files.open([stored.file])
            check_scale(files.scales(stored), files.where(stored), plan.scales == "power-of-two")


def stream(
    output: Output, power_of_two: bool, files: Files, handle: int, pool: Executor, tick: Callable[[int], None]
) -> Done:
    """Write the tensors of a file.

    Args:
        output: What to write.
        power_of_two: New scales are powers of two.
        files: The source.
        handle: The file to write, its header being there already.
        pool: Threads to work in.
        tick: Called with the bytes read as pieces are finished; an exception from it ends the work.

    Raises:
        UserError: numbers of the source are damaged, or it changed. OSError: the file cannot be written.
    """
    files.open(output.sources)
    total, unwritten = Done(0), 0
    pending: deque[Future[Done]] = deque()
    work = (piece for task in output.tasks for piece in _pieces(task, power_of_two, files, handle))
    try:
        more = True
        while more or pending:
            while more and len(pending) < AHEAD:
                piece = next(work, None)
                more = piece is not None
                if piece is not None:
                    pending.append(pool.submit(piece))
            if pending:
                done = pending.popleft().result()
                total = Done(*map(sum, zip(total, done, strict=True)))
                unwritten += done.read
                tick(done.read)
            if unwritten > FLUSH_BYTES:
                _flush(handle)
                unwritten = 0
    finally:
        for future in pending:
            future.cancel()
        wait(pending)
    _flush(handle)
    return total


def _pieces(task: Task, power_of_two: bool, files: Files, handle: int) -> Iterator[Callable[[], Done]]:
    """The work of one tensor, in order."""
    match task:
        case Inline(target, content):
            yield partial(_inline, target, content, handle)
        case Copy(target, source):
            for first in range(0, source.entry.size, COPY_BYTES):
                size = min(COPY_BYTES, source.entry.size - first)
                yield partial(_copy, target, source, first, size, files, handle)
        case Decode(target, source, stored):
            scale_GG = files.scales(stored)
            check_scale(scale_GG, files.where(stored), power_of_two)
            for part in _parts(source.entry.shape):
                yield partial(_decode, target, source, scale_GG, part, files, handle)
        case Encode():
            old_GG = files.scales(task.old) if task.old else None
            for part in _parts(task.source.entry.shape):
                yield partial(_encode, task, old_GG, part, power_of_two, files, handle)


def _inline(target: Entry, content: bytes, handle: int) -> Done:
    _write(handle, target.begin, memoryview(content))
    return Done(0)


def _copy(target: Entry, source: Stored, first: int, size: int, files: Files, handle: int) -> Done:
    raw = files.bytes(source, first, size)
    if target.dtype in KEPT_DTYPES:
        check_finite(raw, target.dtype, files.where(source))
    _write(handle, target.begin + first, raw.numpy().data)
    return Done(size)


def _decode(target: Entry, source: Stored, scale_GG: Tensor, part: Part, files: Files, handle: int) -> Done:
    codes_NK = files.part(source, part)
    values_NK = decode(codes_NK, scale_GG[_blocks(part)], files.where(source))
    _write_part(handle, target, part, values_NK)
    return Done(codes_NK.numel())


def _encode(task: Encode, old_GG: Tensor | None, part: Part, power_of_two: bool, files: Files, handle: int) -> Done:
    raw = files.part(task.source, part)
    old = None if old_GG is None else old_GG[_blocks(part)]
    made = encode(raw.view(_TYPES[task.source.entry.dtype]), power_of_two, files.where(task.source), old)
    if task.target is not None:
        _write_part(handle, task.target, part, made.codes)
    if task.scale_target is not None:
        scale = made.scale if task.scale_target.dtype == "F32" else narrow_scale(made.scale)
        _write_part(handle, task.scale_target, Part(*_blocks(part)), scale)
    codes = task.target is not None
    return Done(raw.numel(), made.scale.numel() * codes, made.kept * codes)


def _parts(shape: tuple[int, ...]) -> Iterator[Part]:
    """A matrix cut into rectangles of whole blocks."""
    rows, columns = shape
    wide = min(columns, WIDEST_PIECE)
    high = max(TILE, PIECE_ELEMENTS // wide // TILE * TILE)
    for row in range(0, rows, high):
        for column in range(0, columns, wide):
            yield Part(slice(row, min(row + high, rows)), slice(column, min(column + wide, columns)))


def _blocks(part: Part) -> tuple[slice, slice]:
    """The scales of a rectangle."""
    rows, columns = (slice(each.start // TILE, -(-each.stop // TILE)) for each in part)
    return rows, columns


def _strips(entry: Entry, part: Part) -> tuple[int, int, int, range]:
    """Of a rectangle, in bytes: the matrix's width, its first column, its width; and its rows."""
    element = DTYPE_BYTES[entry.dtype]
    columns = part.columns
    width = prod(entry.shape[1:]) * element
    return (
        width,
        columns.start * element,
        (columns.stop - columns.start) * element,
        range(part.rows.start, part.rows.stop),
    )


def _write_part(handle: int, entry: Entry, part: Part, values: Tensor) -> None:
    width, column, size, rows = _strips(entry, part)
    raw = values.contiguous().view(torch.uint8).numpy()
    if size == width:
        _write(handle, entry.begin + rows.start * width, raw.data.cast("B"))
        return
    for index, row in enumerate(rows):
        _write(handle, entry.begin + row * width + column, raw[index].data)


def _write(handle: int, at: int, view: memoryview) -> None:
    while view:
        count = os.pwrite(handle, view, at)
        view, at = view[count:], at + count


def _flush(handle: int) -> None:
    """Force what was written to the disk, and out of memory."""
    (os.fdatasync if hasattr(os, "fdatasync") else os.fsync)(handle)
    _forget(handle, 0, 0)


def _forget(handle: int, first: int, size: int) -> None:
    """Take pages of a file out of the page cache, where the system can."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):  # advice only: some file systems have none
            os.posix_fadvise(handle, first, size, os.POSIX_FADV_DONTNEED)
