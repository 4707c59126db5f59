"""From shards back to documents: are the tokens those of the documents that the list names?

A list of documents with hashes and a file of tokens can each be sound and have nothing to do with each other. But the
tokenizer works on bytes and loses none, so every document can be read out of the shards again, and its SHA-256 must be
the one in the list. No source is needed for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path

import numpy as np

from clearseek.data.loader import Stream
from clearseek.data.manifest import SPLITS, DocumentEntry, check_lists, read_documents, read_manifest
from clearseek.data.tokenizer import FIM_BEGIN, FIM_END, FIM_HOLE, Tokenizer
from clearseek.errors import UserError
from clearseek.files import sha256_bytes


def check_documents(folder: Path, wanted: Callable[[int], bool] = lambda number: True) -> int:
    """Count the list of documents again, and read documents out of the shards.

    Args:
        folder: A data folder whose files were checked against its manifest.
        wanted: Which documents to read, by their place in the list.

    Returns:
        How many were read.

    Raises:
        UserError: the first contradiction, with the document.
    """
    manifest = read_manifest(folder)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    check_lists(manifest, read_documents(folder), tokenizer.sha256)
    streams = {split: Stream(folder, split) for split in SPLITS}
    for split, stream in streams.items():
        offsets = stream.offsets
        rising = bool((np.diff(offsets) > 0).all()) and len(offsets) == manifest.split(split).documents + 1
        if not rising or offsets[0] != 0 or offsets[-1] != len(stream):
            raise UserError(f"{split}.offsets: not the places of the documents in the shards")
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
    """The held-out documents' bytes, which other compressors are measured on."""
    if not file.is_file():
        return
    with file.open("rb") as text:
        for entry in documents:
            if entry.split == "heldout" and sha256_bytes(text.read(entry.bytes)) != entry.sha256:
                raise UserError(f"{file.name}: {entry.id!r:.100} is another document than the list's")
        if text.read(1):
            raise UserError(f"{file.name}: longer than the held-out documents")


def _check(entry: DocumentEntry, ids: list[int], tokenizer: Tokenizer) -> None:
    """One document's tokens against its line in the list."""
    where = f"{entry.id!r:.100}"
    if len(ids) != entry.tokens or len(ids) < 2 or ids[0] != tokenizer.bos_id or ids[-1] != tokenizer.eos_id:
        raise UserError(f"the tokens of {where} are not as many as the list says, or have no beginning and end")
    text = "".join(_texts(ids[1:-1], entry.fim, tokenizer, where)).encode()
    if len(text) != entry.bytes or sha256_bytes(text) != entry.sha256:
        raise UserError(f"the tokens of {where} are of another document than the list's")


def _texts(ids: list[int], fim: bool, tokenizer: Tokenizer, where: str) -> Iterator[str]:
    """The pieces of a document in their order; a rearranged one stands as prefix, suffix, middle."""
    if not fim:
        yield tokenizer.decode(ids)
        return
    marks = [tokenizer.id_of(mark) for mark in (FIM_BEGIN, FIM_HOLE, FIM_END)]
    at = [number for number, token in enumerate(ids) if token in marks]
    if [ids[number] for number in at] != marks or at[0] != 0:
        raise UserError(f"the tokens of {where} are not a rearranged document's")
    prefix, suffix, middle = (list(islice(ids, begin + 1, end)) for begin, end in pairwise([*at, len(ids)]))
    for piece in (prefix, middle, suffix):
        yield tokenizer.decode(piece)
