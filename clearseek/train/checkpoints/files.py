"""The files of a checkpoint: each process writes its own.

A process alone writes a group of tensors whole, to ``GROUP.safetensors``. One of many writes what it holds of the
group to ``GROUP-00003.safetensors``, its number in the name, each piece flat under the name of its tensor, with
PyTorch's note of where it belongs: the files are those of its Distributed Checkpoint in safetensors, without the pickle
beside them, and its own reader reads them. Its writer is not used: it holds every file twice in memory, stops the other
threads of Python meanwhile, and loses one of two pieces of a tensor in a file (docs/notebook.md).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from clearseek.files import sha256_file
from clearseek.parts import Part
from clearseek.train.checkpoints.record import RECORD, File, Piece, Record

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
            raise OSError(int(code[1]), str(error)) from error
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
