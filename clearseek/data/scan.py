"""The first reading of the sources: which documents are kept, and in which split.

Of each document sixteen bytes stay in memory: its size, and twelve bytes of its SHA-256, by which duplicates are found
(96 bits: among a billion documents, two different ones are taken for equal once in 10^11 corpora). The second reading
compares every document with its sixteen bytes, so a text that changed meanwhile is found and named.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from clearseek.data.manifest import SPLITS, Split, documents_sha256
from clearseek.data.sources import Document, Source, Tally
from clearseek.errors import UserError

_RECORD = np.dtype([("high", "<u8"), ("low", "<u4"), ("bytes", "<u4")])
"""Bytes 0 to 7 of the SHA-256 as a number, bytes 8 to 11, and the document's size, which is 0 for a duplicate."""
_PIECE = 2**20
"""Records worked on together, which bounds the memory of intermediate results."""

_PARTS = tuple(2**power for power in range(14, 7, -1))
"""Sizes of parts to try, from 16 KiB to 256 bytes."""
_SHORT = 16 * 2**10
"""Bytes of text below which more sizes are tried, because few parts may leave none to hold out."""
_SHORT_PARTS = (*_PARTS, 128, 64, 32, 16, *range(255, 7, -1))
"""Sizes of parts to try for a short text."""
_MOST_HELD_OUT = 3.0
"""Largest share of the text held out by cutting, as a multiple of the requested share."""


class Scan:
    """Result of a reading: sixteen bytes for each document, in order."""

    def __init__(self, source: Source, held_out_fraction: float, report: Callable[[int], None]) -> None:
        """Read `source` whole; `report` is told how many documents were read. Raises UserError."""
        self.tally = Tally()
        self._limit = math.ceil(held_out_fraction * 2**64)
        content, count = bytearray(), 0

        def lines() -> Iterator[tuple[str, Split]]:
            nonlocal content, count
            for count, document in enumerate(source.documents(self.tally), 1):
                content += bytes.fromhex(document.sha256[:16])[::-1] + bytes.fromhex(document.sha256[16:24])[::-1]
                content += document.bytes.to_bytes(4, "little")
                report(count)
                yield document.sha256, split_of(document.sha256, held_out_fraction)

        self.sha256 = documents_sha256(lines())
        """SHA-256 of the distinct documents in order, a part of the fingerprint."""
        self._records = np.frombuffer(content, dtype=_RECORD)
        self.duplicates = self._drop_duplicates()
        if self.duplicates:  # the hash above is of all documents: make it again of the distinct ones
            self.sha256 = documents_sha256((document.sha256, split) for document, split in self.again(source))

    @property
    def bytes(self) -> int:
        """Bytes of the distinct documents."""
        return int(self._records["bytes"].sum(dtype=np.int64))

    def splits(self) -> dict[Split, tuple[int, int]]:
        """Documents and bytes of each split."""
        counts = {split: np.zeros(2, dtype=np.int64) for split in SPLITS}
        for piece in self._pieces():
            held = piece["high"] < np.uint64(self._limit)
            for split, mine in zip(SPLITS, (piece["bytes"][~held], piece["bytes"][held]), strict=True):
                counts[split] += np.count_nonzero(mine), mine.sum(dtype=np.int64)
        return {split: (int(documents), int(size)) for split, (documents, size) in counts.items()}

    def smallest_fraction(self) -> float | None:
        """The smallest share, in thousandths, that leaves documents in both splits; None if no share does."""
        places = self._records["high"][self._records["bytes"] > 0]
        if len(places) < 2:
            return None
        fraction = math.ceil(int(places.min()) / 2**64 * 1000 + 1e-9) / 1000
        return fraction if fraction <= int(places.max()) / 2**64 else None

    def again(self, source: Source) -> Iterator[tuple[Document, Split]]:
        """Read the distinct documents again. Raises UserError where a document differs from the first reading."""
        at = 0
        for at, document in enumerate(source.documents(), 1):
            high, low = int(document.sha256[:16], 16), int(document.sha256[16:24], 16)
            if at > len(self._records) or (self._records["high"][at - 1], self._records["low"][at - 1]) != (high, low):
                raise UserError(f"{document.id}: changed while the data was prepared: start again once it is complete")
            if self._records["bytes"][at - 1]:
                yield document, "heldout" if high < self._limit else "train"
        if at != len(self._records):
            raise UserError(f"{source.name}: documents vanished while the data was prepared: start again")

    def sample(self, most: int) -> tuple[Callable[[str], bool], int]:
        """Choose training documents with the smallest hashes, of `most` bytes or just above: (hash filter, bytes)."""
        low, high = 0, 2**64 - 1
        if self._training_bytes(high) > most:
            while low < high:
                middle = (low + high) // 2
                low, high = (low, middle) if self._training_bytes(middle) >= most else (middle + 1, high)
        return lambda sha256: int(sha256[:16], 16) <= high, self._training_bytes(high)

    def _training_bytes(self, up_to: int) -> int:
        """Bytes of the training documents whose hashes are at most `up_to`."""
        total = 0
        for piece in self._pieces():
            chosen = (piece["high"] >= np.uint64(self._limit)) & (piece["high"] <= np.uint64(up_to))
            total += int(piece["bytes"][chosen].sum(dtype=np.int64))
        return total

    def _pieces(self) -> Iterator[npt.NDArray[Any]]:
        return (self._records[start : start + _PIECE] for start in range(0, len(self._records), _PIECE))

    def _drop_duplicates(self) -> int:
        """Set the size of repeated documents to 0, one range of hashes after the other; return their number."""
        ranges = len(self._records) // _PIECE + 1
        dropped = 0
        for number in range(ranges):
            first, last = (np.uint64(max(0, end * 2**64 // ranges - end // ranges)) for end in (number, number + 1))
            inside = [(piece["high"] >= first) & ((piece["high"] < last) | (number + 1 == ranges))
                      for piece in self._pieces()]  # fmt: skip
            places = np.flatnonzero(np.concatenate(inside)) if inside else np.empty(0, dtype=np.int64)
            high, low = self._records["high"][places], self._records["low"][places]
            order = np.lexsort((low, high))  # stable: of equal ones, the first read comes first
            high, low = high[order], low[order]
            same = np.flatnonzero((high[1:] == high[:-1]) & (low[1:] == low[:-1])) + 1
            self._records["bytes"][places[order[same]]] = 0
            dropped += len(same)
        return dropped


def split_of(sha256: str, held_out_fraction: float) -> Split:
    """The split of a document with this SHA-256 (hex)."""
    return "heldout" if int(sha256[:16], 16) < held_out_fraction * 2**64 else "train"


def scan(source: Source, held_out_fraction: float, report: Callable[[int], None]) -> tuple[Source, Scan]:
    """Read a source, and cut files more finely where one split would stay empty.

    A few text files are documents that may all fall into one split. They are then cut into parts of about 16 KiB, 8 KiB
    and so on to 256 bytes, until some parts are held out, at most three times the requested share. A text below 16 KiB
    is cut down to 16 bytes, and then by every size from 255 to 8, because each size draws other parts.

    Returns:
        The source with the size of its parts, and the result of reading it.

    Raises:
        UserError: a document is unusable, or one split stays empty.
    """
    whole = Scan(source, held_out_fraction, report)
    if _has_both(whole, held_out_fraction):
        return source, whole
    least: tuple[Source, Scan] | None = None
    sizes = _SHORT_PARTS if whole.bytes < _SHORT else _PARTS
    for part in sizes if source.divisible else ():
        finer = replace(source, part_bytes=part)
        found = Scan(finer, held_out_fraction, report)
        if _has_both(found, held_out_fraction):
            least = least or (finer, found)
            if found.splits()["heldout"][1] <= _MOST_HELD_OUT * held_out_fraction * found.bytes:
                return finer, found
    if least is None:
        raise _one_split_is_empty(source, whole, held_out_fraction)
    return least


def _has_both(found: Scan, held_out_fraction: float) -> bool:
    splits = found.splits()
    return bool(splits["train"][0] and (not held_out_fraction or splits["heldout"][0]))


def _one_split_is_empty(source: Source, found: Scan, held_out_fraction: float) -> UserError:
    (train, _), (heldout, _) = found.splits().values()
    files = f"{len(source.files)} files" if len(source.files) != 1 else source.files[0][0]
    left_out = Counter({"duplicates": found.duplicates}) + found.tally.unusable + source.passed_over
    why = ", ".join(f"{count} {cause}" for cause, count in left_out.items()) or "none"
    if not train + heldout:
        rowless = f", {found.tally.rowless} of them without a row" if found.tally.rowless else ""
        return UserError(f"no documents in {files}{rowless} (left out: {why}): check data.paths and data.text_field")
    smallest = found.smallest_fraction()
    works = f"{smallest} is the smallest that works; " if smallest else ""
    return UserError(
        f"{files}: data.held_out_fraction = {held_out_fraction} leaves {train} for training and {heldout} held out of "
        f"{train + heldout} documents (left out: {why}): add text; {works}0 holds out none"
    )
