"""What a data folder holds, and how to tell that it is unchanged.

A folder of prepared data describes itself: ``manifest.json`` holds the settings, counts, licences and the SHA-256 of
every other file, among them ``documents.jsonl`` with one line a document. One *fingerprint* stands for the tokens: the
SHA-256 of everything that determines them (the documents' hashes in order, the tokenizer, the rearrangement) and of
nothing that does not (file names, versions, times), so two people with the same text get the same fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator

from clearseek.config import DataConfig, ProblemsConfig, Settings, SftConfig
from clearseek.errors import OtherVersionError, UserError
from clearseek.files import reading, sha256_file
from clearseek.jsontext import is_later

Counts = dict[str, int]
Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")
FORMAT = 1
"""Version of the folder's layout and of what a document's tokens are; another version, another fingerprint."""

_PLAIN = re.compile(r"[\w-][\w.-]{0,200}", re.ASCII)


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
    """Whether the document was rearranged as prefix, suffix, middle."""


class PackedEntry(DocumentEntry):
    """One line of documents.jsonl where conversations are packed into rows."""

    row: int
    """Number of the row in its split, from 0."""
    first: int
    """Place of its first token in the row."""
    learnt: int
    """Tokens that a model learns to write."""


_ROWS = frozenset({"CSV", "TSV", "JSON", "JSON lines"})
_ROWS_CURE = 'data.source = "csv" or "jsonl" takes their rows'


class Remarks(Settings):
    """Remarks on how the data were made; no check depends on them."""

    unusable: Counts = Field(default_factory=dict)
    """Numbers of documents left out, by cause."""
    passed_over: Counts = Field(default_factory=dict)
    """Numbers of entries that the patterns in `paths` passed over, by cause."""
    as_text: Counts = Field(default_factory=dict)
    """Numbers of files of other kinds that were read as plain text, by kind."""
    rowless: int = 0
    """Number of files without a document."""
    part_bytes: int = 0
    """Bytes of the parts into which files were cut to hold out some text; 0 for files left whole."""
    vocabulary: int = 0
    """Tokens of a tokenizer that found too little repeated text for `vocab_size`; 0 for a full vocabulary."""

    def lines(self) -> list[str]:
        """The remarks for people."""
        said = []
        for what, counts in (
            ("left out as unusable: {}", self.unusable),
            ("passed over: {}; name them in data.paths to take them in", self.passed_over),
            ("read as plain text: {}" + (f"; {_ROWS_CURE}" if set(self.as_text) & _ROWS else ""), self.as_text),
        ):
            if counts:
                said.append(what.format(", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))))
        if self.rowless:
            said.append(f"files without a document: {self.rowless:,}")
        if self.part_bytes:
            said.append(f"cut into parts of about {self.part_bytes:,} bytes, so that some are held out")
        if self.vocabulary:
            said.append(
                f"vocabulary: the text has repeated pairs for {self.vocabulary:,} tokens; the others stay unused"
            )
        return said


class SplitEntry(Settings):
    """One split of the data."""

    documents: int
    bytes: int
    """UTF-8 bytes of the documents."""
    tokens: int
    shards: tuple[str, ...]
    """Names of the token files, in the order of the split's stream of tokens."""


class PackEntry(Settings):
    """How conversations were packed into rows (:mod:`clearseek.data.packs`)."""

    row: Annotated[int, Field(ge=2)]
    """Tokens of a row in the files, look-ahead included."""
    room: Annotated[int, Field(ge=2)]
    """Tokens of a row that conversations may fill: one more than a model's inputs."""
    start_bytes: Literal[2, 4]
    """Bytes of one entry of the ``.starts`` files, a little-endian unsigned integer."""
    rows: dict[Split, int]
    """Rows of each split."""
    learnt: dict[Split, int]
    """Tokens of each split that a model learns to write."""
    longest: int
    """Tokens of the longest conversation, before cropping."""
    too_long: int = 0
    """Number of conversations left out because they are longer than a row, or crop to one without an answer."""
    cropped: int = 0
    """Number of conversations that were cut off at a row's end."""
    spelled: int = 0
    """How often texts spell a special token; the spelling stays plain text."""
    sft: SftConfig
    """How lines became conversations."""
    problems: ProblemsConfig | None = None
    """Problems whose solutions are the conversations, where there are no files."""


class Manifest(Settings):
    """The whole of manifest.json."""

    format: int
    fingerprint: str
    inputs: str
    """SHA-256 of documents and settings, by which an existing folder is recognised and used again."""
    source: str
    licences: dict[str, int]
    """Number of documents under each SPDX id."""
    config: DataConfig
    vocab_size: int
    token_bytes: Literal[2, 4]
    """Bytes of one token in the shards, a little-endian unsigned integer."""
    duplicates: int
    """Number of documents dropped because an earlier document has the same bytes."""
    skipped: tuple[str, ...]
    """Ids of unusable documents that were left out: the interpreter's files all, of others the first 100."""
    train: SplitEntry
    heldout: SplitEntry
    tokenizer_sha256: str
    files: tuple[FileEntry, ...]
    versions: dict[str, str]
    remarks: Remarks = Remarks()
    packs: PackEntry | None = None
    """How conversations were packed; None for a stream of documents."""
    problems: ProblemsConfig | None = None
    """What generated the documents, which are prompts; None for documents that were read."""

    @model_serializer(mode="wrap")
    def _without_absent_kinds(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A stream's manifest has no word of packs and problems, as before there were any."""
        kinds = ("packs", "problems")
        return {name: value for name, value in handler(self).items() if name not in kinds or value is not None}

    @model_validator(mode="after")
    def _names_its_own_files(self) -> Self:
        """Refuse names with a path: a stranger's manifest could otherwise read any file of the checking machine."""
        listed = [entry.name for entry in self.files]
        for name in (*listed, *self.train.shards, *self.heldout.shards):
            if not _PLAIN.fullmatch(name) or name not in listed:
                raise ValueError(f"{name!r} is not a file of this folder that `files` lists")
        if len(set(listed)) != len(listed) or set(self.train.shards) & set(self.heldout.shards):
            raise ValueError("a file is listed twice")
        return self

    @property
    def left_out(self) -> int:
        """Number of unusable documents left out; older folders name every one of them."""
        return max(len(self.skipped), sum(self.remarks.unusable.values()))

    def split(self, name: Split) -> SplitEntry:
        """The split called `name`."""
        return self.train if name == "train" else self.heldout

    def entry(self, line: bytes) -> DocumentEntry:
        """A line of documents.jsonl. Raises ValidationError when it is damaged."""
        return (DocumentEntry if self.packs is None else PackedEntry).model_validate_json(line)

    def pack_lines(self) -> list[str]:
        """What packing did, for people; nothing for a stream of documents."""
        packs = self.packs
        if packs is None:
            return []
        tokens, rows = self.train.tokens + self.heldout.tokens, sum(packs.rows.values())
        padding, learnt = 1 - tokens / (rows * packs.room), sum(packs.learnt.values()) / tokens
        said = [
            f"{self.train.documents:,} conversations in {packs.rows['train']:,} rows of {packs.room - 1:,} tokens, "
            f"{self.heldout.documents:,} held out in {packs.rows['heldout']:,}",
            f"padding {padding:.1%}; {learnt:.1%} of the conversations' tokens are learnt; the longest conversation "
            f"has {packs.longest:,} tokens, and {packs.cropped:,} were cropped",
            f"left out: {self.duplicates:,} duplicates, {packs.too_long:,} too long, {self.left_out:,} unusable",
        ]
        if packs.spelled:
            said.append(f"special tokens spelled in texts, which stay plain text: {packs.spelled:,}")
        return said


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


def content_of(config: DataConfig, documents: str) -> dict[str, Any]:
    """What decides the tokens besides the tokenizer: the documents (`documents_sha256`) and their rearrangement."""
    fim = {"rate": config.fim_rate, "seed": config.seed} if config.fim_rate else None
    return {"format": FORMAT, "documents": documents, "fim": fim}


def fingerprint_of(config: DataConfig, documents: str, tokenizer_sha256: str, token_bytes: int) -> str:
    """The fingerprint of a folder, from its parts."""
    content = content_of(config, documents)
    return canonical_sha256({**content, "tokenizer": tokenizer_sha256, "token_bytes": token_bytes})


def pack_fingerprint(documents: str, tokenizer_sha256: str, row: int, room: int) -> str:
    """The fingerprint of packed conversations, whose hashes cover their texts and what of these is learnt."""
    return canonical_sha256(
        {"format": FORMAT, "documents": documents, "tokenizer": tokenizer_sha256, "packs": {"row": row, "room": room}}
    )


def taught_fingerprint(fingerprint: str, teacher: Mapping[str, Any] | None) -> str:
    """The fingerprint of data with what a teacher said of them, by its record; that of the data without a teacher."""
    return fingerprint if teacher is None else canonical_sha256({"data": fingerprint, "teacher": teacher})


def check_lists(manifest: Manifest, documents: Iterable[DocumentEntry], tokenizer_sha256: str) -> None:
    """Count the list of documents again: splits, bytes, tokens, licences, and the fingerprint.

    Args:
        manifest: The folder's manifest.
        documents: The lines of the folder's documents.jsonl.
        tokenizer_sha256: SHA-256 of the folder's tokenizer.json.

    Raises:
        UserError: a count or the fingerprint differs from the manifest's.
    """
    counts: dict[Split, Counter[str]] = {split: Counter() for split in SPLITS}
    licences: Counter[str] = Counter()
    hashes: list[tuple[str, Split]] = []
    for entry in documents:
        held_out = int(entry.sha256[:16], 16) < manifest.config.held_out_fraction * 2**64
        if manifest.problems is None and held_out != (entry.split == "heldout"):
            raise UserError(
                f"documents.jsonl: {entry.id!r:.100} is under {entry.split}, but its hash puts it into the other split"
            )
        counts[entry.split].update(documents=1, bytes=entry.bytes, tokens=entry.tokens)
        licences[entry.licence] += 1
        hashes.append((entry.sha256, entry.split))
    for split in SPLITS:
        for what in ("documents", "bytes", "tokens"):
            ours, stated = counts[split][what], getattr(manifest.split(split), what)
            if ours != stated:
                raise UserError(f"documents.jsonl lists {ours:,} {what} under {split}, and manifest.json {stated:,}")
    if dict(licences) != manifest.licences:
        raise UserError("documents.jsonl lists other licences, or other numbers of documents, than manifest.json")
    if tokenizer_sha256 != manifest.tokenizer_sha256:
        raise UserError("tokenizer.json is not the tokenizer whose SHA-256 manifest.json states")
    if manifest.problems is not None:  # their fingerprint is that of the generator
        return
    listed, packs = documents_sha256(iter(hashes)), manifest.packs
    if packs is None:
        found = fingerprint_of(manifest.config, listed, tokenizer_sha256, manifest.token_bytes)
    else:
        found = pack_fingerprint(listed, tokenizer_sha256, packs.row, packs.room)
    if found != manifest.fingerprint:
        raise UserError(f"manifest.json states another fingerprint than documents and tokenizer have: {found}")


def read_manifest(folder: Path) -> Manifest:
    """Read ``manifest.json``. Raises UserError when the file is missing, damaged, or of another version."""
    path = folder / "manifest.json"
    try:
        raw = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{folder}: no prepared data (manifest.json is missing): choose another folder") from None
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: damaged (not JSON): delete {folder} and prepare the data again") from None
    if isinstance(raw, dict) and (stated := raw.get("format", FORMAT)) != FORMAT:
        if is_later(stated, FORMAT):
            raise OtherVersionError(
                f"{path}: format {stated}, but this ClearSeek reads {FORMAT}: use a newer one, or prepare data again"
            )
        raise UserError(f"{path}: damaged at format: delete {folder} and prepare the data again")
    try:
        return Manifest.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or first["msg"].removeprefix("Value error, ")
        raise UserError(f"{path}: damaged at {where}: delete {folder} and prepare the data again") from None


def read_documents(folder: Path) -> Iterator[DocumentEntry]:
    """The lines of documents.jsonl, one at a time. Raises UserError when it or the manifest is missing or damaged."""
    path, manifest = folder / "documents.jsonl", read_manifest(folder)
    with reading(path), path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield manifest.entry(line)
            except ValidationError:
                raise UserError(f"{path}:{number}: damaged: prepare the data again") from None


def check_files(folder: Path, manifest: Manifest, hashes: bool = True) -> None:
    """Compare every file's size, and its SHA-256 when `hashes`, with the manifest. Raises UserError naming the file."""
    for entry in manifest.files:
        path = folder / entry.name
        kind = "shard" if entry.name.endswith(".bin") else "file"
        cure = f"restore it, or delete {folder} and prepare the data again"
        with reading(path, cure):
            size = path.stat().st_size
            if size != entry.bytes:
                raise UserError(f"{path}: changed {kind}: {size} bytes instead of {entry.bytes}; {cure}")
            if hashes and sha256_file(path) != entry.sha256:
                raise UserError(f"{path}: changed {kind}: its SHA-256 is not the manifest's; {cure}")
