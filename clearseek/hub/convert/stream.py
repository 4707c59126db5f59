"""Stream of one file of a conversion: pieces of matrices are read, computed and written to their places.

A matrix is cut into rectangles of whole 128 x 128 blocks, about a million elements each, so memory does not depend on
the size of matrix or checkpoint. Pieces are independent, and a few threads work on them side by side. Pages read or
written are dropped from the page cache: the kernel would otherwise fill the memory with unneeded pages, and writes
would wait for it (240 MB/s measured with a full page cache, 1,100 MB/s without, on one virtual machine).
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
from clearseek.files import reading
from clearseek.fp8.formats import TILE
from clearseek.hub.block_fp8 import DTYPE_NAMES, check_finite, check_scale, decode, encode, narrow_scale, wide_scale
from clearseek.hub.convert.plan import KEPT_DTYPES, ConversionPlan, Copy, Decode, Encode, Inline, Output, Task
from clearseek.hub.folder import Stored
from clearseek.hub.safetensors import DTYPE_BYTES, Entry

PIECE_ELEMENTS: Final = 1 << 20
WIDEST_PIECE: Final = 1 << 15
"""Most columns of a piece; a wider matrix is cut along its columns too."""
COPY_BYTES: Final = 1 << 22
FLUSH_BYTES: Final = 1 << 26
AHEAD: Final = 32
"""Number of pieces that are handed to the threads at once."""
_TYPES: Final = {name: dtype for dtype, name in DTYPE_NAMES.items()}


class Stopped(Exception):  # noqa: N818 - not an error, but the answer to a request
    """The caller of the conversion asked it to stop."""


class Done(NamedTuple):
    """Counts of a finished piece or file."""

    read: int
    """Bytes of tensors read."""
    blocks: int = 0
    """Number of blocks quantised."""
    kept: int = 0
    """Number of blocks that took their old scale."""


class Rectangle(NamedTuple):
    """Rows and columns of a piece of a matrix."""

    rows: slice
    columns: slice


@dataclass
class Files(AbstractContextManager["Files"]):
    """Files of the source folder, opened when first needed."""

    folder: Path

    def __post_init__(self) -> None:
        self._handles: dict[str, int] = {}

    def open(self, names: list[str]) -> None:
        """Open these files and close all others."""
        for name in [name for name in self._handles if name not in names]:
            os.close(self._handles.pop(name))
        for name in names:
            if name not in self._handles:
                with reading(self.folder / name):
                    self._handles[name] = os.open(self.folder / name, os.O_RDONLY)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.open([])

    def where(self, stored: Stored) -> str:
        """File and tensor: the beginning of a message."""
        return f"{self.folder / stored.file}: {stored.entry.name}"

    def bytes(self, stored: Stored, first: int, size: int) -> Tensor:
        """Bytes of a tensor from byte `first` on: uint8 [size]."""
        raw = torch.empty(size, dtype=torch.uint8)
        self._read(stored, first, raw.numpy().data)
        _forget(self._handles[stored.file], stored.entry.begin + first, size)
        return raw

    def part(self, stored: Stored, part: Rectangle) -> Tensor:
        """Bytes of a piece of a matrix: uint8 [rows, columns x element size]."""
        width, column, size, steps = _strips(stored.entry, part)
        raw = torch.empty((part.rows.stop - part.rows.start, size), dtype=torch.uint8)
        if size == width:
            return self.bytes(stored, part.rows.start * width, raw.numel()).view(raw.shape)
        for index, row in enumerate(steps):
            self._read(stored, row * width + column, raw[index].numpy().data)
        return raw

    def scales(self, stored: Stored) -> Tensor:
        """Scales of a matrix: FP32 [G, G]."""
        raw = self.bytes(stored, 0, stored.entry.size)
        return wide_scale(raw.view(torch.float32) if stored.entry.dtype == "F32" else raw).view(stored.entry.shape)

    def _read(self, stored: Stored, first: int, view: memoryview) -> None:
        at = stored.entry.begin + first
        while view:
            with reading(self.folder / stored.file):
                count = os.preadv(self._handles[stored.file], [view], at)
            if not count:
                raise UserError(
                    f"{self.where(stored)}: the file ends before it: it was changed while being read: convert again"
                )
            view, at = view[count:], at + count


def check_scales(plan: ConversionPlan) -> None:
    """Raise UserError if a scale of an FP8 checkpoint is not a positive number; the few bytes are read first."""
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
        output: The file's plan.
        power_of_two: Whether new scales are powers of two.
        files: Files of the source.
        handle: The file to write, which has its header.
        pool: Threads to work in.
        tick: Called with the bytes read of each finished piece; an exception from it ends the work.

    Raises:
        UserError: numbers of the source are damaged, or the source changed.
        OSError: the file cannot be written.
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
    """Yield the pieces of work of one tensor, in order."""
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


def _decode(target: Entry, source: Stored, scale_GG: Tensor, part: Rectangle, files: Files, handle: int) -> Done:
    codes_NK = files.part(source, part)
    values_NK = decode(codes_NK, scale_GG[_blocks(part)], files.where(source))
    _write_part(handle, target, part, values_NK)
    return Done(codes_NK.numel())


def _encode(
    task: Encode, old_GG: Tensor | None, part: Rectangle, power_of_two: bool, files: Files, handle: int
) -> Done:
    raw = files.part(task.source, part)
    old = None if old_GG is None else old_GG[_blocks(part)]
    made = encode(raw.view(_TYPES[task.source.entry.dtype]), power_of_two, files.where(task.source), old)
    if task.target is not None:
        _write_part(handle, task.target, part, made.codes)
    if task.scale_target is not None:
        scale = made.scale if task.scale_target.dtype == "F32" else narrow_scale(made.scale)
        _write_part(handle, task.scale_target, Rectangle(*_blocks(part)), scale)
    codes = task.target is not None
    return Done(raw.numel(), made.scale.numel() * codes, made.kept * codes)


def _parts(shape: tuple[int, ...]) -> Iterator[Rectangle]:
    """Yield rectangles of whole blocks that make up a matrix."""
    rows, columns = shape
    wide = min(columns, WIDEST_PIECE)
    high = max(TILE, PIECE_ELEMENTS // wide // TILE * TILE)
    for row in range(0, rows, high):
        for column in range(0, columns, wide):
            yield Rectangle(slice(row, min(row + high, rows)), slice(column, min(column + wide, columns)))


def _blocks(part: Rectangle) -> tuple[slice, slice]:
    """Rows and columns of a rectangle's scales."""
    rows, columns = (slice(each.start // TILE, -(-each.stop // TILE)) for each in part)
    return rows, columns


def _strips(entry: Entry, part: Rectangle) -> tuple[int, int, int, range]:
    """Width of the matrix, first column and width of the rectangle, in bytes, and the rectangle's rows."""
    element, (rows, columns) = DTYPE_BYTES[entry.dtype], part
    width, size = prod(entry.shape[1:]) * element, (columns.stop - columns.start) * element
    return width, columns.start * element, size, range(rows.start, rows.stop)


def _write_part(handle: int, entry: Entry, part: Rectangle, values: Tensor) -> None:
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
    """Force written pages to the disk, and out of memory."""
    (os.fdatasync if hasattr(os, "fdatasync") else os.fsync)(handle)
    _forget(handle, 0, 0)


def _forget(handle: int, first: int, size: int) -> None:
    """Drop pages of a file from the page cache, where the system can."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):  # advice, which some file systems refuse
            os.posix_fadvise(handle, first, size, os.POSIX_FADV_DONTNEED)
