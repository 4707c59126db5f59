"""A checkpoint as it lies on the disk: any part of any tensor, whoever wrote it and however it was cut.

Which stored pieces a wanted run of elements lies in is computed by PyTorch's Distributed Checkpoint, whose planner does
it for any two layouts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clearseek.errors import UserError
from clearseek.files import reading
from clearseek.hub.safetensors import DTYPE_BYTES, Entry, read_header
from clearseek.parts import Part
from clearseek.train.checkpoints.files import DTYPES, find_damage
from clearseek.train.checkpoints.record import RECORD, Piece, Record, group_of, tensors_of

_AT_ONCE = 1 << 22
"""Elements."""


class Stored(Mapping[str, Mapping[str, "LazyTensor"]]):
    """The tensors of a checkpoint, by group and name; none is in memory.

    A file's SHA-256 is checked before the first byte of it is used.

    Args:
        path: The checkpoint's folder.
        record: Its record.
        way_out: What to do where a file is damaged, for the message.
        checked: Whether all files that will be read have been checked already.
    """

    def __init__(self, path: Path, record: Record, way_out: Callable[[], str], checked: bool = False) -> None:
        self.path, self._record, self._way_out, self._checked = path, record, way_out, checked
        self._names = list(dict.fromkeys(group_of(name) for name in record.files))
        self._places: dict[str, dict[str, Entry]] = {}
        self._groups: dict[str, dict[str, LazyTensor]] = {}

    @property
    def step(self) -> int:
        """Steps taken when it was written."""
        return self._record.step

    @property
    def of_many(self) -> bool:
        """Whether many processes wrote it."""
        return self._record.of_many

    @property
    def tensors(self) -> Stored:
        """Group -> name -> tensor."""
        return self

    @property
    def state(self) -> dict[str, Any]:
        """State beside the tensors, as JSON values."""
        return self._record.state

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, group: str) -> Mapping[str, LazyTensor]:
        if group not in self._groups:
            if group not in self._names:
                raise KeyError(group)
            pieces = self._pieces(group).items()
            self._groups[group] = {name: LazyTensor(self, found[0].part.shape, tuple(found)) for name, found in pieces}
        return self._groups[group]

    def _pieces(self, group: str) -> dict[str, list[Piece]]:
        if self._record.of_many:
            return tensors_of(self._record.files, group)
        return {
            entry.name: [Piece(name, entry.dtype, Part(entry.name, entry.shape, 0, prod(entry.shape)))]
            for name in self._record.chosen([group])
            for entry in self._entries(name).values()
        }

    def _entries(self, name: str) -> dict[str, Entry]:
        """Places of the tensors in a file. Raises UserError where it is damaged, or not what the record says."""
        if name not in self._places:
            file = self.path / name
            if not self._checked and (problems := find_damage(self.path, self._record, [name])):
                raise UserError(f"{problems[0]}\n{self._way_out()}")
            entries = {entry.name: entry for entry in read_header(file).entries}
            pieces = self._record.files[name].pieces
            listed = None if pieces is None else {p.part.name: (p.dtype, (p.part.size,)) for p in pieces}
            if listed is not None and listed != {key: (each.dtype, each.shape) for key, each in entries.items()}:
                raise UserError(f"{file}: holds other tensors than {RECORD} says\n{self._way_out()}")
            if unknown := [each.name for each in entries.values() if each.dtype not in DTYPES]:
                raise UserError(f"{file}: {unknown[0]:.200} has a type that no checkpoint of ours holds")
            self._places[name] = entries
        return self._places[name]

    def read(self, piece: Piece, first: int, out: Tensor) -> None:
        """Elements of a piece, from `first` on, into `out`, flat. Raises UserError where the file is damaged."""
        file = self.path / piece.file
        at = self._entries(piece.file)[piece.part.name].begin + first * DTYPE_BYTES[piece.dtype]
        view = out.view(torch.uint8).numpy().data
        with reading(file), file.open("rb", buffering=0) as stream:
            while view:
                count = os.preadv(stream.fileno(), [view], at)
                if not count:
                    raise UserError(f"{file}: cut short while it was read: restore it from a copy")
                view, at = view[count:], at + count


@dataclass(frozen=True, eq=False)
class LazyTensor:
    """A tensor of a checkpoint, none of which is in memory."""

    stored: Stored
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    """In their order."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of its elements."""
        return DTYPES[self.pieces[0].dtype]

    def cut(self, start: int, stop: int) -> Tensor:
        """Elements of its flat form, on the CPU. Raises UserError where a file is damaged."""
        assert 0 <= start <= stop <= prod(self.shape), (start, stop, self.shape)
        from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, TensorProperties, TensorStorageMetadata
        from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

        def chunk(start: int, stop: int) -> ChunkStorageMetadata:
            return ChunkStorageMetadata(torch.Size([start]), torch.Size([stop - start]))

        name, dtype = self.pieces[0].part.name, self.dtype
        chunks = [chunk(piece.part.start, piece.part.stop) for piece in self.pieces]
        stored = TensorStorageMetadata(TensorProperties(dtype), torch.Size([prod(self.shape)]), chunks)
        out = torch.empty(stop - start, dtype=dtype)
        for item in create_read_items_for_chunk_list(name, stored, [chunk(start, stop)]):
            assert item.storage_index.index is not None
            (first,), (at,), (length,) = item.storage_offsets, item.dest_offsets, item.lengths
            self.stored.read(self.pieces[item.storage_index.index], first, out[at : at + length])
        return out

    def whole(self) -> Tensor:
        """All of it."""
        return self.cut(0, prod(self.shape)).view(self.shape)

    def __getitem__(self, index: tuple[int | slice, ...]) -> Tensor:
        """Some rows, of the tensor or of one of those that it is a stack of: numbers, then a slice."""
        *numbers, rows = index
        assert isinstance(rows, slice)
        first, shape = 0, self.shape
        for number in numbers:
            assert isinstance(number, int)
            shape = shape[1:]
            first += number * prod(shape)
        start, stop, _ = rows.indices(shape[0])
        row = prod(shape[1:])
        return self.cut(first + start * row, first + stop * row).view(stop - start, *shape[1:])


def cut(tensor: Tensor | LazyTensor, part: Part) -> Tensor:
    """A part of a tensor in memory or on the disk, flat. Raises RuntimeError where the tensor has another shape."""
    if tuple(tensor.shape) != part.shape:
        raise RuntimeError(f"{part.name} has the shape {list(tensor.shape)} instead of {list(part.shape)}")
    if isinstance(tensor, LazyTensor):
        return tensor.cut(part.start, part.stop)
    return tensor.reshape(-1)[part.start : part.stop]


def in_memory(tensors: Mapping[str, Tensor] | Mapping[str, LazyTensor]) -> dict[str, Tensor]:
    """Tensors by name, read where they are on the disk."""
    return {name: each.whole() if isinstance(each, LazyTensor) else each for name, each in tensors.items()}
