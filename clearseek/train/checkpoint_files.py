"""The tensors of a checkpoint in their files: written by each process for itself, read by the run of elements.

A process writes what it holds of a group to ``GROUP-00003.safetensors``, its number in the name, each piece flat under
the name of its tensor, with PyTorch's note of where it belongs: the files are those of its Distributed Checkpoint in
safetensors, without the pickle beside them, and its own reader reads them. Which stored pieces a wanted run of elements
needs, whatever the two layouts, is its algorithm too. It does not write them: its writer holds every file twice in
memory, stops the other threads of Python for it, and loses one of two pieces of a tensor in a file (docs/notebook.md).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from clearseek.errors import UserError
from clearseek.files import reading, sha256_file
from clearseek.hub.safetensors import DTYPE_BYTES, Entry, read_header
from clearseek.train.checkpoint_record import RECORD, File, Piece, Record, group_of, tensors_of
from clearseek.train.parallel.parts import Part

Held = Sequence[tuple[Part, Tensor]]
"""What a process holds of a group: parts, each with a tensor of its elements, of any device and shape."""
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
"""Types that a checkpoint may hold, by safetensors' names."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def whole(tensors: Mapping[str, Tensor]) -> Held:
    """Whole tensors by name, as what a process alone holds."""
    return [(Part(name, tuple(tensor.shape), 0, tensor.numel()), tensor) for name, tensor in tensors.items()]


def write_whole(folder: Path, group: str, held: Held) -> dict[str, File]:
    """Write a group of whole tensors, forced to the disk; its file, by name."""
    assert all(part.whole for part, _ in held), "a process alone holds whole tensors"
    name = f"{group}.safetensors"
    _write(folder / name, {part.name: tensor.view(part.shape) for part, tensor in held})
    return {name: File((folder / name).stat().st_size, sha256_file(folder / name), None)}


def write_pieces(folder: Path, group: str, rank: int, size: int, held: Held) -> dict[str, File]:
    """Write what process `rank` of `size` holds of a group, forced to the disk; its files, by name.

    A file has room for one piece of a tensor: further ones go to files with the numbers rank + size, rank + 2 size...
    """
    rounds: list[dict[str, tuple[Part, Tensor]]] = [{}] if rank == 0 else []  # a group without tensors has a file too
    for part, tensor in held:
        assert part.size == tensor.numel(), part
        free = next((each for each in rounds if part.name not in each), None)
        if free is None:
            rounds.append(free := {})
        free[part.name] = part, tensor
    files = {}
    for number, pieces in enumerate(rounds):
        name = f"{group}-{rank + number * size:05d}.safetensors"
        offsets = {part.name: {"saved_offsets": [part.start]} for part, _ in pieces.values()}
        note = {"DCP_SHARDING_INFO": json.dumps(offsets), "DCP_VERSION": "1.0", "format": "pt"}
        _write(folder / name, {part.name: tensor.reshape(-1) for part, tensor in pieces.values()}, note)
        listed = tuple(Piece(name, _NAMES[tensor.dtype], part) for part, tensor in pieces.values())
        files[name] = File((folder / name).stat().st_size, sha256_file(folder / name), listed)
    return files


def _write(file: Path, tensors: Mapping[str, Tensor], note: dict[str, str] | None = None) -> None:
    """safetensors refuses tensors that are not contiguous or share memory: both are copied, the others are not."""
    ready: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        ready[name] = tensor
    try:
        save_file(ready, file, note)
    except SafetensorError as error:
        if code := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(file)) from error
        raise
    # safetensors makes files that only their owner can read; give them the folder's reach.
    file.chmod(file.parent.stat().st_mode & 0o666)
    with file.open("rb") as written:
        os.fsync(written.fileno())


def find_damage(path: Path, record: Record, names: Iterable[str]) -> list[str]:
    """What is wrong with these files of a checkpoint, one sentence per file; every byte of them is read."""
    found = (_compare(path / name, record.files[name]) for name in names)
    return [problem for problem in found if problem]


def _compare(file: Path, expected: File) -> str | None:
    try:
        actual = file.stat().st_size
        if actual < expected.size:
            return f"{file}: cut short: it has {actual:,} of {expected.size:,} bytes"
        if actual > expected.size or sha256_file(file) != expected.sha256:
            return f"{file}: altered since it was written: its size or SHA-256 does not match {RECORD}"
    except OSError as error:
        return f"{file}: cannot read it: {error.strerror}"
    return None


class StoredTensors:
    """The tensors of a checkpoint, whoever wrote it, read by the run of elements; nothing is held in memory.

    The files that are read must have been checked before (:func:`find_damage`).
    """

    def __init__(self, path: Path, record: Record) -> None:
        self.path, self.record = path, record
        self._entries: dict[str, dict[str, Entry]] = {}
        self._pieces: dict[str, dict[str, list[Piece]]] = {}

    @property
    def groups(self) -> list[str]:
        """Groups of tensors that there are."""
        return list(dict.fromkeys(group_of(name) for name in self.record.files))

    def shapes(self, group: str) -> dict[str, tuple[int, ...]]:
        """Shapes of a group's tensors by name."""
        return {name: pieces[0].part.shape for name, pieces in self._of(group).items()}

    def files(self, group: str, part: Part) -> set[str]:
        """Files that hold elements of a part. Raises UserError where there is no such tensor."""
        return {p.file for p in self._find(group, part) if p.part.start < part.stop and p.part.stop > part.start}

    def read(self, group: str, part: Part) -> Tensor:
        """The elements of a part, flat. Raises UserError where there is no such tensor or a file cannot be read."""
        from torch.distributed.checkpoint.metadata import (
            ChunkStorageMetadata,
            TensorProperties,
            TensorStorageMetadata,
        )
        from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

        pieces = self._find(group, part)
        dtype = DTYPES[pieces[0].dtype]
        out = torch.empty(part.size, dtype=dtype)

        def chunk(of: Part) -> ChunkStorageMetadata:
            return ChunkStorageMetadata(torch.Size([of.start]), torch.Size([of.size]))

        size = torch.Size([prod(part.shape)])
        stored = TensorStorageMetadata(TensorProperties(dtype), size, [chunk(piece.part) for piece in pieces])
        for item in create_read_items_for_chunk_list(part.name, stored, [chunk(part)]):
            assert item.storage_index.index is not None
            piece = pieces[item.storage_index.index]
            (first,), (at,), (length,) = item.storage_offsets, item.dest_offsets, item.lengths
            self._read(piece, first, out[at : at + length])
        return out

    def _find(self, group: str, part: Part) -> list[Piece]:
        pieces = self._of(group).get(part.name, [])
        if not pieces or pieces[0].part.shape != part.shape:
            there = f"is of shape {list(pieces[0].part.shape)}" if pieces else "is missing"
            raise UserError(
                f"{self.path}: does not fit the recipe: {part.name} of {group} {there}, not {list(part.shape)}"
            )
        return pieces

    def _of(self, group: str) -> dict[str, list[Piece]]:
        """Name -> pieces, in their order."""
        if group not in self._pieces:
            if self.record.of_many:
                self._pieces[group] = tensors_of(self.record.files, group)
            else:
                self._pieces[group] = {
                    entry.name: [Piece(name, entry.dtype, Part(entry.name, entry.shape, 0, prod(entry.shape)))]
                    for name in self.record.chosen([group])
                    for entry in self._places(name).values()
                }
        return self._pieces[group]

    def _places(self, name: str) -> dict[str, Entry]:
        """Places of the tensors in a file. Raises UserError where they are not those of the record."""
        if name not in self._entries:
            entries = {entry.name: entry for entry in read_header(self.path / name).entries}
            pieces = self.record.files[name].pieces
            listed = None if pieces is None else {p.part.name: (p.dtype, (p.part.size,)) for p in pieces}
            if listed is not None and listed != {key: (each.dtype, each.shape) for key, each in entries.items()}:
                raise UserError(f"{self.path / name}: holds other tensors than {RECORD} says: restore it from a copy")
            if unknown := [each.name for each in entries.values() if each.dtype not in DTYPES]:
                raise UserError(f"{self.path / name}: {unknown[0]:.200} has a type that no checkpoint of ours holds")
            self._entries[name] = entries
        return self._entries[name]

    def _read(self, piece: Piece, first: int, out: Tensor) -> None:
        """Elements of a piece, from `first` on, into `out`."""
        file = self.path / piece.file
        at = self._places(piece.file)[piece.part.name].begin + first * DTYPE_BYTES[piece.dtype]
        view = out.view(torch.uint8).numpy().data
        with reading(file), file.open("rb", buffering=0) as stream:
            while view:
                count = os.preadv(stream.fileno(), [view], at)
                if not count:
                    raise UserError(f"{file}: cut short while it was read: restore it from a copy")
                view, at = view[count:], at + count
