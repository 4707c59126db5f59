"""The hash of a state that many processes hold, put together by the main one.

A hash is taken over the digests of all chunks in one order (:mod:`clearseek.train.chunks`). Every process makes those
of what it holds and sends them to the main one alone, which asks for the next piece in that order and keeps none: a
state of 671 billion FP32 weights has 328 MB of digests, and no process ever has them all. The others hear the result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from clearseek.parts import Part
from clearseek.train.chunks import chunk_digests, describe
from clearseek.train.parallel.group import Group

PIECE = 1 << 20
"""Most bytes of digests in a message."""


def hash_parts(group: Group, held: Sequence[tuple[Part, Tensor]]) -> str:
    """SHA-256 of tensors that the processes of a group hold parts of, with the bits of one process.

    All processes call this, each with its parts; cuts lie between whole chunks, and no element is held twice.
    """
    mine = sorted(held, key=lambda pair: (pair[0].name, pair[0].start))
    digests = [chunk_digests(tensor) for _, tensor in mine]
    listed = [
        (part.name, part.start, describe(part.name, tensor.dtype, part.shape), len(made))
        for (part, tensor), made in zip(mine, digests, strict=True)
    ]
    everyone = group.collect(listed)
    if everyone is None:
        for made in digests:
            for first in range(0, len(made), PIECE):
                dist.send(_tensor(made[first : first + PIECE]), 0)
        return str(group.share(None))
    digest, before, own = hashlib.sha256(), None, iter(digests)
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
