"""The batch of step s, as a function.

The training tokens are one long stream. Window i is the `sequence_length` tokens from i * sequence_length on, and the
few tokens after them that the last positions must predict. Each epoch visits every window once, in its own order, and
the order is a *function*: a keyed permutation of 0..n-1 that maps any position without computing the others. So the
tokens of step s depend on (fingerprint, seed, s) alone, a resumed run needs no loader state, and memory does not grow
with the data.

The permutation is a Feistel network over the next power of four, repeated until the value falls below n (Black and
Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002). The network mixes well and fast, but keeps no secrets.

Shapes: B batch, S sequence length, A look-ahead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from clearseek.data.manifest import (
    PackedEntry,
    Split,
    canonical_sha256,
    check_files,
    read_documents,
    read_manifest,
)
from clearseek.errors import UserError

Ints = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]
_ROUNDS = 8


class Permutation:
    """A pseudo-random order of 0..n-1 in constant memory; `key` (any text) chooses the order."""

    def __init__(self, n: int, key: str) -> None:
        assert n > 0
        self._n = np.uint64(n)
        self._half_bits = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
        self._mask = (np.uint64(1) << self._half_bits) - np.uint64(1)
        self._keys = np.frombuffer(hashlib.sha512(key.encode()).digest(), dtype="<u8")  # 64 bytes: 8 round keys

    def __call__(self, positions: Ints) -> Ints:
        """Values at `positions` (each in 0..n-1), the same shape."""
        values = self._encrypt(positions.astype(np.uint64))
        while (
            outside := values >= self._n
        ).any():  # under 4 rounds on average; ends, because every cycle leads back below n
            values[outside] = self._encrypt(values[outside])
        return values.astype(np.int64)

    def _encrypt(self, values: _Words) -> _Words:
        left, right = values >> self._half_bits, values & self._mask
        for key in self._keys[:_ROUNDS]:
            left, right = right, left ^ (_mix(right ^ key) & self._mask)
        return (left << self._half_bits) | right


def _mix(words: _Words) -> _Words:
    """Mix every bit of each word into every bit of the result (the finaliser of SplitMix64, Steele et al., 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


Part = Literal["bin", "mask", "starts"]
"""Kinds of files that hold a number for each token, by their names' ends: ids, and of rows what is learnt, and where
documents begin."""


class Stream:
    """A split's tokens as one array, over memory-mapped shards; or what another kind of file says of each token."""

    def __init__(self, folder: Path, split: Split, part: Part = "bin") -> None:
        """Open the shards. Raises UserError when the manifest or a shard is missing, or a file has the wrong size."""
        self.manifest = read_manifest(folder)
        check_files(folder, self.manifest, hashes=False)
        packs = self.manifest.packs
        sizes = {"bin": self.manifest.token_bytes, "mask": 1, "starts": packs.start_bytes if packs else 2}
        dtype, listed = np.dtype(f"<u{sizes[part]}"), {entry.name for entry in self.manifest.files}
        names = [name.removesuffix("bin") + part for name in self.manifest.split(split).shards]
        if missing := [name for name in names if name not in listed]:
            raise UserError(f"{folder}: its manifest does not list {missing[0]}: prepare the data again")
        self._shards = [np.memmap(folder / name, dtype=dtype, mode="r") for name in names]
        self._starts = np.cumsum([0, *(len(shard) for shard in self._shards)])
        self._offsets = folder / f"{split}.offsets"

    @cached_property
    def offsets(self) -> Ints:
        """First token of each document, and the end of the last document: [documents + 1]."""
        return np.fromfile(self._offsets, dtype="<i8").astype(np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, part: slice) -> Ints:
        """Tokens of a slice without a step, cut off at the end of the stream."""
        start, stop, _ = part.indices(len(self))
        out = np.empty(max(0, stop - start), dtype=np.int64)
        self.read(start, out)
        return out

    def read(self, start: int, out: Ints) -> None:
        """Fill `out` ([any length]) with the tokens from position `start` on."""
        shard = int(np.searchsorted(self._starts, start, side="right")) - 1
        done = 0
        while done < len(out):
            part = self._shards[shard][start + done - self._starts[shard] :][: len(out) - done]
            out[done : done + len(part)] = part
            done, shard = done + len(part), shard + 1


class Loader:
    """Batches of a data folder, addressed by step."""

    def __init__(
        self, folder: Path, split: Split, sequence_length: int, batch_size: int, seed: int, lookahead: int = 1
    ) -> None:
        """Open a folder that `prepare` made.

        Args:
            folder: The data folder.
            split: ``train`` or ``heldout``.
            sequence_length: Tokens per window (S).
            batch_size: Windows per step (B).
            seed: Chooses the order of windows.
            lookahead: Tokens after the window (A): 1 for the next token, one more for each MTP module.

        Raises:
            UserError: the folder is missing or damaged, or holds fewer tokens than one window.
        """
        self._folder, self._split = Path(folder), split
        self._stream = Stream(self._folder, split)
        self.sequence_length, self.batch_size, self.seed, self.lookahead = sequence_length, batch_size, seed, lookahead
        self.manifest = self._stream.manifest
        self.fingerprint, packs = self.manifest.fingerprint, self.manifest.packs
        self.stride = sequence_length if packs is None else sequence_length + lookahead
        """Tokens between the beginnings of two windows; rows of packed conversations do not overlap."""
        if packs is not None and (packs.row, packs.room) != (self.stride, sequence_length + 1):
            raise UserError(
                f"{folder}: conversations packed into rows of {packs.room - 1} + {packs.row - packs.room + 1} tokens, "
                f"and this model takes {sequence_length} + {lookahead}: prepare the data again"
            )
        self.windows_per_epoch = (len(self._stream) - (sequence_length + lookahead - self.stride)) // self.stride
        if self.windows_per_epoch < 1:
            raise UserError(
                f"{folder}: {len(self._stream)} {split} tokens are fewer than one sequence of "
                f"{sequence_length} + {lookahead}: lower data.sequence_length, or add text"
            )

    def batch(self, step: int, rows: Sequence[int] | None = None) -> Ints:
        """Token ids of step `step` (from 0), [B, S + A]; with `rows`, only those rows are read.

        Inputs are ``[:, :S]``, the targets of depth d are ``[:, d : d + S]``. Raises UserError where an id is outside
        the vocabulary, because the data may be a stranger's.
        """
        return self.tokens(self.windows(step, rows), f"of step {step + 1} ")

    def tokens(self, windows_B: Ints, place: str = "") -> Ints:
        """Token ids of some windows of the stream, [B, S + A]; `place` says in an error whose they are."""
        tokens_BX = self._read(self._stream, windows_B)
        if tokens_BX.size and tokens_BX.max() >= self.manifest.vocab_size:
            raise UserError(
                f"{self._folder}: the {self._split} tokens {place}hold the id {tokens_BX.max()}, but the "
                f"manifest's vocabulary ends at {self.manifest.vocab_size - 1}: prepare the data again"
            )
        return tokens_BX

    def _read(self, stream: Stream, windows_B: Ints) -> Ints:
        """What a stream holds in some windows, [B, S + A]."""
        out_BX = np.empty((len(windows_B), self.sequence_length + self.lookahead), dtype=np.int64)
        for row, window in zip(out_BX, windows_B.tolist(), strict=True):
            stream.read(window * self.stride, row)
        return out_BX

    def documents(self, step: int) -> list[str]:
        """Ids of the documents in the batch of `step`, in the order of its rows, without repetition."""
        numbers: dict[int, None] = {}
        for window in self.windows(step).tolist():
            start = window * self.sequence_length
            end = start + self.sequence_length + self.lookahead
            first, last = np.searchsorted(self._stream.offsets, (start, end - 1), side="right") - 1
            numbers |= dict.fromkeys(range(int(first), int(last) + 1))
        entries = (entry for entry in read_documents(self._folder) if entry.split == self._split)
        names = {number: entry.id for number, entry in enumerate(entries) if number in numbers}
        return [names[number] for number in numbers]

    def check_hashes(self) -> None:
        """Compare the SHA-256 of every file with the manifest. Raises UserError naming a changed shard."""
        check_files(self._folder, self.manifest)

    def windows(self, step: int, rows: Sequence[int] | None = None) -> Ints:
        """Windows of the stream in the batch, [B]: samples step * B and on, each in its epoch's order."""
        assert step >= 0
        samples_B = step * self.batch_size + np.array(range(self.batch_size) if rows is None else rows, dtype=np.int64)
        epochs_B, positions_B = np.divmod(samples_B, self.windows_per_epoch)
        windows_B = np.empty_like(samples_B)
        for epoch in np.unique(epochs_B).tolist():
            key = canonical_sha256([self.fingerprint, self.seed, epoch])
            chosen_B = epochs_B == epoch
            windows_B[chosen_B] = Permutation(self.windows_per_epoch, key)(positions_B[chosen_B])
        return windows_B


CONTEXT, LEARNT, PADDING = 0, 1, 2
"""What a mask says of a token: it is only read, a model learns to write it, or it fills a row up."""


class Rows(NamedTuple):
    """Rows of packed conversations."""

    tokens_BX: Ints
    """Token ids, [B, S + A]."""
    mask_BX: Ints
    """`CONTEXT`, `LEARNT` or `PADDING` for each token."""
    start_BX: Ints
    """Place in the row of the first token of each token's conversation."""


class PackLoader(Loader):
    """Batches of packed conversations, addressed by step: a pack is a window, and the order is a stream's."""

    def __init__(
        self, folder: Path, split: Split, sequence_length: int, batch_size: int, seed: int, lookahead: int = 1
    ) -> None:
        """Open a folder that :func:`clearseek.data.packs.prepare_packs` made; arguments as for :class:`Loader`."""
        super().__init__(folder, split, sequence_length, batch_size, seed, lookahead)
        if self.manifest.packs is None:
            raise UserError(f"{folder}: a stream of documents, not packed conversations: prepare the data again")
        self._mask, self._starts = Stream(self._folder, split, "mask"), Stream(self._folder, split, "starts")
        if not len(self._stream) == len(self._mask) == len(self._starts) == self.windows_per_epoch * self.stride:
            raise UserError(f"{folder}: its {split} files are not of whole rows: prepare the data again")

    def rows(self, windows_B: Ints) -> Rows:
        """Some rows. Raises UserError where they are no packs, because the data may be a stranger's."""
        found = Rows(self.tokens(windows_B), self._read(self._mask, windows_B), self._read(self._starts, windows_B))
        place_X = np.arange(self.stride)
        if (found.mask_BX > PADDING).any() or (found.start_BX > place_X).any():
            raise UserError(f"{self._folder}: its masks or starts are not those of packs: prepare the data again")
        return found

    def documents(self, step: int) -> list[str]:
        """Ids of the conversations in the batch of `step`, in the order of its rows."""
        rows = self.windows(step).tolist()
        names: dict[int, list[str]] = {row: [] for row in rows}
        for entry in read_documents(self._folder):
            if isinstance(entry, PackedEntry) and entry.split == self._split and entry.row in names:
                names[entry.row].append(entry.id)
        return [name for row in names for name in names[row]]
