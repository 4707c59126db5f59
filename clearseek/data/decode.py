"""From shards back to documents: whether the tokens belong to the listed documents.

A list of documents with hashes and a file of tokens can each be sound and still not belong together. But the tokenizer
works on bytes and loses none, so every document can be read out of the shards again, without its source, and its
SHA-256 compared with the list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path

import numpy as np

from clearseek.data.loader import Stream
from clearseek.data.manifest import SPLITS, DocumentEntry, check_lists, read_documents, read_manifest
from clearseek.data.packs import check_packs
from clearseek.data.tokenizer import FIM_BEGIN, FIM_END, FIM_HOLE, Tokenizer
from clearseek.errors import UserError
from clearseek.files import sha256_bytes


def check_documents(folder: Path, wanted: Callable[[int], bool] = lambda number: True) -> int:
    """Count the list of documents again, and read documents out of the shards.

    Args:
        folder: A data folder whose files were checked against its manifest.
        wanted: Whether to read the document at a place of the list.

    Returns:
        Number of documents read.

    Raises:
        UserError: the first contradiction found, with its document.
    """
    manifest = read_manifest(folder)
    if manifest.packs is not None:
        return check_packs(folder, wanted)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    check_lists(manifest, read_documents(folder), tokenizer.sha256)
    streams = {split: Stream(folder, split) for split in SPLITS}
    for split, stream in streams.items():
        offsets = stream.offsets
        rising = bool((np.diff(offsets) > 0).all()) and len(offsets) == manifest.split(split).documents + 1
        if not rising or offsets[0] != 0 or offsets[-1] != len(stream):
            raise UserError(f"{split}.offsets: does not fit the documents and tokens of the shards")
    places = {split: iter(pairwise(stream.offsets.tolist())) for split, stream in streams.items()}
    _check_text(folder / "heldout.txt", read_documents(folder))
    count = 0
    for number, entry in enumerate(read_documents(folder)):
        begin, end = next(places[entry.split])
        if wanted(number):
            tokens = np.empty(end - begin, dtype=np.int64)
            streams[entry.split].read(begin, tokens)
            _check(entry, tokens.tolist(), tokenizer)
            count += 1
    return count


def _check_text(file: Path, documents: Iterator[DocumentEntry]) -> None:
    """Check the held-out documents' bytes, on which other compressors are measured."""
    if not file.is_file():
        return
    with file.open("rb") as text:
        for entry in documents:
            if entry.split == "heldout" and sha256_bytes(text.read(entry.bytes)) != entry.sha256:
                raise UserError(f"{file.name}: {entry.id!r:.100} differs from the document in the list")
        if text.read(1):
            raise UserError(f"{file.name}: longer than the held-out documents")


def _check(entry: DocumentEntry, ids: list[int], tokenizer: Tokenizer) -> None:
    """Compare one document's tokens with its line in the list."""
    where = f"{entry.id!r:.100}"
    if len(ids) != entry.tokens or len(ids) < 2 or ids[0] != tokenizer.bos_id or ids[-1] != tokenizer.eos_id:
        raise UserError(f"the tokens of {where} differ in number from the list, or lack the beginning or the end")
    text = "".join(_texts(ids[1:-1], entry.fim, tokenizer, where)).encode()
    if len(text) != entry.bytes or sha256_bytes(text) != entry.sha256:
        raise UserError(f"the tokens of {where} belong to another document than the list's")


def _texts(ids: list[int], fim: bool, tokenizer: Tokenizer, where: str) -> Iterator[str]:
    """The pieces of a document in their order; a rearranged document holds prefix, suffix, middle."""
    if not fim:
        yield tokenizer.decode(ids)
        return
    marks = [tokenizer.id_of(mark) for mark in (FIM_BEGIN, FIM_HOLE, FIM_END)]
    at = [number for number, token in enumerate(ids) if token in marks]
    if [ids[number] for number in at] != marks or at[0] != 0:
        raise UserError(f"the tokens of {where} lack the marks of a rearranged document")
    prefix, suffix, middle = (list(islice(ids, begin + 1, end)) for begin, end in pairwise([*at, len(ids)]))
    for piece in (prefix, middle, suffix):
        yield tokenizer.decode(piece)
