"""Where text comes from: every source is a stream of documents.

A document is one file of code or prose, a part of a file, or one row of a table, as UTF-8 text with the SHA-256 of its
bytes. Sources are read lazily and in a fixed order (files by path, rows in file order), so the same files always give
the same stream, and memory holds one document at a time. For a document that cannot be used (empty, null, not UTF-8),
`data.unusable` decides: an error with file and line, or leaving the document out and counting it by cause. Of the
interpreter's own library (`python-stdlib`), the few files that are not UTF-8 text are always left out.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from clearseek.config import DataConfig
from clearseek.data.find import Finder, shown
from clearseek.data.readers import EXTRA, READERS, Reader, read_whole, text_reader
from clearseek.data.rows import UnusableError, usable_text
from clearseek.errors import UserError
from clearseek.filetypes import recognise_file

_COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz")
_ROWS = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "csv"}
"""Kinds of rows, by the end of a file's name."""
_NOT_PROSE = {".csv": "CSV", ".tsv": "TSV", ".jsonl": "JSON lines", ".ndjson": "JSON lines", ".json": "JSON",
              ".ipynb": "notebook"}  # fmt: skip
_MOST_SKIPPED = 100

_TEST_FOLDERS = frozenset({"test", "tests", "idle_test", "testing"})
# Not the standard library, or not the same from one installation of a Python version to the next: installed packages,
# bytecode, and files generated when this interpreter was built or set up (they carry the builder's paths).
_FOREIGN_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__"})
_GENERATED = ("config-*", "_sysconfigdata*", "sitecustomize.py", "usercustomize.py")


@dataclass(frozen=True, slots=True)
class Document:
    """One text; `sha256` (hex) and `bytes` describe its UTF-8 bytes, which for a file are the file's own."""

    id: str
    """Path relative to the source; for a row, followed by ``:`` and the number of the line or row, from 1."""
    text: str
    sha256: str
    bytes: int
    licence: str
    """SPDX id, or ``unknown``."""
    source: str
    """Kind of source; for `hub` with the dataset and its commit."""


@dataclass
class Tally:
    """What a reading left out, and what it read as another kind of file."""

    unusable: Counter[str] = field(default_factory=Counter)
    """Numbers of documents left out, by cause."""
    skipped: list[str] = field(default_factory=list)
    """Ids of the first hundred documents left out."""
    as_text: Counter[str] = field(default_factory=Counter)
    """Numbers of files of other kinds that were read as plain text, by kind."""
    rowless: int = 0
    """Number of files without a document."""


@dataclass(frozen=True)
class Source:
    """Files of text that are found but not yet read."""

    name: str
    """Kind of source; for `hub` with the dataset and its commit: ``hub:owner/name@commit``."""
    licence: str
    files: tuple[tuple[str, Path], ...]
    """Name and place of every file, in reading order."""
    reader: Reader
    """Yields (id, UTF-8 bytes) of each document in a file."""
    skip: bool = False
    """Whether unusable documents are left out rather than refused."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """Numbers of entries that the patterns passed over, by cause."""
    part_bytes: int = 0
    """Approximate bytes of the parts into which files of kind `files` are cut; 0 cuts only collections."""

    @property
    def divisible(self) -> bool:
        """Whether the documents may be cut into smaller ones."""
        return self.name == "files"

    def documents(self, tally: Tally | None = None) -> Iterator[Document]:
        """Read everything; `tally` counts what was left out.

        Raises:
            UserError: a file cannot be read, or a document is unusable and `skip` is off; the message names either.
        """
        tally = tally or Tally()
        reader = text_reader(self.part_bytes) if self.divisible else self.reader
        for name, path in self.files:
            if self.divisible and (kind := _not_prose(name, path)):
                tally.as_text[kind] += 1
            identity = None
            for identity, content in reader(name, path):
                try:
                    text = usable_text(identity, content)
                except UnusableError as error:
                    if not self.skip:
                        raise UserError(f'{error} (data.unusable = "skip" leaves out what is unusable)') from None
                    tally.unusable[error.cause] += 1
                    tally.skipped += [identity] if len(tally.skipped) < _MOST_SKIPPED else []
                    continue
                raw = text.encode()
                yield Document(identity, text, hashlib.sha256(raw).hexdigest(), len(raw), self.licence, self.name)
            tally.rowless += identity is None


def _not_prose(name: str, path: Path) -> str | None:
    """The kind of a text file that is hardly prose, such as CSV or an HTML page; None for prose."""
    ending = Path(_decompressed(name.lower())).suffix
    if ending in _NOT_PROSE:
        return _NOT_PROSE[ending]
    try:
        kind = recognise_file(path)
    except OSError:
        return None  # the reader will raise the same error
    return kind.name if kind and kind.name == "HTML" else None


def _decompressed(name: str) -> str:
    """A file's name without the ending of its compression."""
    return next((name.removesuffix(ending) for ending in _COMPRESSIONS if name.endswith(ending)), name)


def open_source(config: DataConfig, base: Path) -> Source:
    """Find the files of `config`'s source (and download those of `hub`) without reading them.

    Args:
        config: Source and settings.
        base: Folder from which relative paths start.

    Raises:
        UserError: a pattern matches nothing, a folder may not be read, or a library is missing.
    """
    if config.source == "python-stdlib":
        return _stdlib(config.include_tests)
    skip = config.unusable == "skip"
    if config.source == "hub":
        return _hub(config, skip)
    finder = Finder(base)
    files = finder.find(config.paths, config.exclude)
    reader = text_reader(0) if config.source == "files" else READERS[config.source](config.text_field)
    return Source(config.source, config.licence, files, reader, skip, finder.passed_over)


def _stdlib(include_tests: bool) -> Source:
    root = Path(sysconfig.get_path("stdlib"))
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if _in_stdlib(name, include_tests)]
        files += [Path(folder, name) for name in names if name.endswith(".py") and _in_stdlib(name, True)]
    named = sorted((file.relative_to(root).as_posix(), file) for file in files)
    if not named:
        raise UserError(
            f"{root}: this interpreter has no standard library as .py files: "
            'use a full Python installation, or set data.source = "files" with data.paths'
        )
    return Source("python-stdlib", "PSF-2.0", tuple(named), read_whole, skip=True)


def _in_stdlib(name: str, include_tests: bool) -> bool:
    if name in _FOREIGN_FOLDERS or _matches(name, _GENERATED):
        return False
    return include_tests or name not in _TEST_FOLDERS


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _hub(config: DataConfig, skip: bool) -> Source:
    """Download ``owner/name`` or ``owner/name@revision``; further entries of `paths` choose files inside it."""
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(f'data.source = "hub" needs huggingface_hub: {EXTRA}') from None
    if not config.paths or config.paths[0].partition("@")[0].count("/") != 1:
        raise UserError(
            f"data.paths = {list(config.paths)}: a hub source starts with a dataset id, owner/name[@revision]"
        )
    (dataset, _, revision), patterns = config.paths[0].partition("@"), config.paths[1:]
    wanted = patterns or ("*.parquet", "*.jsonl")
    try:
        root = Path(huggingface_hub.snapshot_download(
            dataset, repo_type="dataset", revision=revision or None, allow_patterns=list(wanted)
        ))  # fmt: skip
    except Exception as error:  # of many kinds: no network, no such dataset, gated, offline and not cached
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{config.paths[0]}: cannot download the dataset: {reason}; check the id and the network "
            "(HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN are honoured)"
        ) from None
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    # The cache may hold more than was asked for; patterns are the downloader's, where `*` also matches `/`.
    names = [name for name in names if _matches(name, wanted) and not _matches(name, config.exclude)]
    strange = [name for name in names if _row_kind(name) is None]
    if strange or not names:
        problem = (
            f"{strange[0]} is neither Parquet, JSON nor CSV" if strange else f"no file matches {', '.join(wanted)}"
        )
        raise UserError(f'{dataset}: {problem}: choose files by patterns after the id, such as "data/train-*.parquet"')
    readers = {kind: READERS[kind](config.text_field) for kind in {_row_kind(name) for name in names} if kind}
    name = f"hub:{dataset}@{root.name}"  # a snapshot's folder is named by its commit
    files = tuple((shown(name), root / name) for name in names)
    return Source(name, config.licence, files, lambda name, path: readers[_row_kind(name) or ""](name, path), skip)


def _row_kind(name: str) -> str | None:
    """The kind of rows in a file, by the end of its name; None for another end."""
    return _ROWS.get(Path(_decompressed(name.lower())).suffix)
