"""A checkpoint of many processes written again as one process writes it, byte for byte.

A release has checkpoints in this form alone: what others read of them does not depend on how many processes there were.
A block of a tensor is in memory at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Final

import torch

from clearseek.files import sha256_file, writing
from clearseek.hub.safetensors import build_header
from clearseek.tensors import StoredTensor
from clearseek.train.checkpoints import checkpoint
from clearseek.train.checkpoints.record import HELD_TYPES, File, Record
from clearseek.train.checkpoints.stored import LazyTensor

_BLOCK: Final = 1 << 24
"""Elements that are copied at once."""


def consolidate(source: Path, out: Path) -> None:
    """Write a checkpoint of many processes as one of a single process.

    Args:
        source: Its folder.
        out: A new folder of the same name.

    Raises:
        UserError: the checkpoint is damaged, or the disk is full.
    """
    stored = checkpoint.open_stored(source)
    files: dict[str, File] = {}
    with writing(out):
        out.mkdir(parents=True)
        for group in stored:
            name = f"{group}.safetensors"
            _write(out / name, stored[group])
            files[name] = File((out / name).stat().st_size, sha256_file(out / name), None)
        Record(stored.step, files, stored.state).write(out)


def _write(file: Path, tensors: Mapping[str, LazyTensor]) -> None:
    specs = [StoredTensor(name, tensor.pieces[0].dtype, tensor.shape) for name, tensor in tensors.items()]
    specs.sort(key=lambda spec: (HELD_TYPES.index(spec.dtype), spec.name))
    with file.open("wb") as written:
        written.write(build_header(specs, None).raw)
        for spec in specs:
            elements, tensor = prod(spec.shape), tensors[spec.name]
            for start in range(0, elements, _BLOCK):
                block = tensor.cut(start, min(start + _BLOCK, elements))
                written.write(block.view(torch.uint8).numpy().data)
        os.fsync(written.fileno())
