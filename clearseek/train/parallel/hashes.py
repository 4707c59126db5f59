"""The hash of a state that many processes hold, put together by the main one.

A hash is taken over the digests of all chunks in one order (:mod:`clearseek.train.chunks`). Every process makes those
of what it holds and sends them to the main one alone, which asks for the next piece in that order and keeps none: a
state of 671 billion FP32 weights has 328 MB of digests, and no process ever has them all. The others hear the result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from clearseek.parts import CHUNK, Part, deal
from clearseek.train.checkpoints.stored import LazyTensor
from clearseek.train.chunks import chunk_digests, describe
from clearseek.train.parallel.group import Group

PIECE = 1 << 20
"""Most bytes of digests in a message."""


_AT_ONCE = 64
"""Chunks of a stored tensor that are in memory at a time."""


class Hashed(NamedTuple):
    """Digests of the chunks of a part, one after the other."""

    part: Part
    dtype: torch.dtype
    digests: bytes


def hash_parts(group: Group, held: Sequence[tuple[Part, Tensor]]) -> str:
    """SHA-256 of tensors that the processes of a group hold parts of, with the bits of one process.

    All processes call this, each with its parts; cuts lie between whole chunks, and no element is held twice.
    """
    return _put_together(group, [Hashed(part, tensor.dtype, chunk_digests(tensor)) for part, tensor in held])


def hash_stored(group: Group, tensors: Mapping[str, LazyTensor]) -> str:
    """SHA-256 of tensors on a disk; each process of a group reads an equal share of them.

    Raises UserError on all processes where a file is damaged.
    """
    wholes = [Part.of(name, tensor.shape) for name, tensor in tensors.items()]
    mine = list[Hashed]()
    with group.together():
        for part in deal([(whole, CHUNK) for whole in wholes], group.size)[group.rank]:
            tensor, step = tensors[part.name], _AT_ONCE * CHUNK
            pieces = (tensor.cut(at, min(at + step, part.stop)) for at in range(part.start, part.stop, step))
            mine.append(Hashed(part, tensor.dtype, b"".join(map(chunk_digests, pieces))))
    return _put_together(group, mine)


def _put_together(group: Group, held: Sequence[Hashed]) -> str:
    mine = sorted(held, key=lambda each: (each.part.name, each.part.start))
    everyone = group.collect(
        [(part.name, part.start, describe(part.name, dtype, part.shape), len(made)) for part, dtype, made in mine]
    )
    if everyone is None:
        for each in mine:
            for first in range(0, len(each.digests), PIECE):
                dist.send(_tensor(each.digests[first : first + PIECE]), 0)
        return str(group.share(None))
    digest, before, own = hashlib.sha256(), None, (each.digests for each in mine)
    order = sorted((tuple(each), rank) for rank, theirs in enumerate(everyone) for each in theirs)
    for (name, _, described, size), rank in order:
        digest.update(b"" if name == before else described.encode())
        for piece in [next(own)] if rank == group.rank else _received(rank, size):
            digest.update(piece)
        before = name
    return str(group.share(digest.hexdigest()))


def _received(rank: int, size: int) -> Iterator[memoryview]:
    """So many bytes of another process, piece by piece."""
    for first in range(0, size, PIECE):
        piece = torch.empty(min(PIECE, size - first), dtype=torch.uint8)
        dist.recv(piece, rank)
        yield piece.numpy().data


def _tensor(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)
