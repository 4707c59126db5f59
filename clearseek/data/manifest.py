"""What is in a data folder, and how to tell that it still is.

A folder of prepared data describes itself: ``manifest.json`` holds the settings, counts, licences and the SHA-256 of
every other file, among them ``documents.jsonl`` with one line a document. One *fingerprint* stands for the tokens: the
SHA-256 of everything that determines them (the documents' hashes in order, the tokenizer, the rearrangement) and of
nothing that does not (file names, versions, times), so two people with the same text get the same fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from clearseek.config import DataConfig, Settings
from clearseek.errors import UserError
from clearseek.files import sha256_file

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")
FORMAT = 1
"""Version of the folder's layout and of what a document's tokens are; another version, another fingerprint."""


class FileEntry(Settings):
    """One file of the folder."""

    name: str
    bytes: int
    sha256: str


class DocumentEntry(Settings):
    """One line of documents.jsonl: a document in the order of its split's tokens."""

    id: str
    sha256: str
    bytes: int
    licence: str
    source: str
    split: Split
    tokens: int
    """Tokens in the shards, special ones included."""
    fim: bool
    """Whether it was rearranged as prefix, suffix, middle."""


class SplitEntry(Settings):
    """One half of the data."""

    documents: int
    bytes: int
    """UTF-8 bytes of the documents."""
    tokens: int
    shards: tuple[str, ...]
    """Names of the token files; together, in this order, they are the split's stream of tokens."""


class Manifest(Settings):
    """The whole of manifest.json."""

    format: int
    fingerprint: str
    inputs: str
    """SHA-256 of what the folder was asked to be made from; decides whether it can be used again."""
    source: str
    licences: dict[str, int]
    """SPDX id -> documents under it."""
    config: DataConfig
    vocab_size: int
    token_bytes: Literal[2, 4]
    """Bytes of one token in the shards: little-endian, unsigned."""
    duplicates: int
    """Documents dropped because an earlier one has the same bytes."""
    skipped: tuple[str, ...]
    """Files of the interpreter left out because they are empty or not UTF-8 text."""
    train: SplitEntry
    heldout: SplitEntry
    tokenizer_sha256: str
    files: tuple[FileEntry, ...]
    versions: dict[str, str]

    def split(self, name: Split) -> SplitEntry:
        """The half called `name`."""
        return self.train if name == "train" else self.heldout


def canonical_sha256(value: Any) -> str:
    """SHA-256 of a JSON value's canonical text: sorted keys, no spaces, ASCII."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def documents_sha256(documents: Iterator[tuple[str, Split]]) -> str:
    """SHA-256 over a line ``<sha256> <split>`` for each document in order."""
    digest = hashlib.sha256()
    for sha256, split in documents:
        digest.update(f"{sha256} {split}\n".encode())
    return digest.hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read ``manifest.json``. Raises UserError when the folder holds none, or a damaged or newer one."""
    path = folder / "manifest.json"
    try:
        raw = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{folder}: no prepared data there (manifest.json is missing): choose another folder") from None
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: damaged (not JSON): delete {folder} and prepare the data again") from None
    if isinstance(raw, dict) and raw.get("format", FORMAT) != FORMAT:
        raise UserError(f"{path}: format {raw['format']!r}, but this ClearSeek reads {FORMAT}: prepare the data again")
    try:
        return Manifest.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise UserError(f"{path}: damaged at {where}: delete {folder} and prepare the data again") from None


def read_documents(folder: Path) -> Iterator[DocumentEntry]:
    """The lines of documents.jsonl, one at a time. Raises UserError when the file is missing or damaged."""
    path = folder / "documents.jsonl"
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield DocumentEntry.model_validate_json(line)
                except ValidationError:
                    raise UserError(f"{path}:{number}: damaged: prepare the data again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from None


def check_files(folder: Path, manifest: Manifest, hashes: bool = True) -> None:
    """Compare every file's size, and its SHA-256 when `hashes`, with the manifest. Raises UserError naming the file."""
    for entry in manifest.files:
        path = folder / entry.name
        kind = "shard" if entry.name.endswith(".bin") else "file"
        cure = f"restore it, or delete {folder} and prepare the data again"
        try:
            size = path.stat().st_size
            if size != entry.bytes:
                raise UserError(f"{path}: changed {kind}: {size} bytes instead of {entry.bytes}; {cure}")
            if hashes and sha256_file(path) != entry.sha256:
                raise UserError(f"{path}: changed {kind}: its SHA-256 is not the manifest's; {cure}")
        except OSError as error:
            raise UserError(f"{path}: cannot read the {kind}: {error.strerror}; {cure}") from None
