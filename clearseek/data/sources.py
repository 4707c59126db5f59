"""Where text comes from: every source is a stream of documents.

A document is one file of code or prose, or one row of a table, as UTF-8 text with the SHA-256 of its bytes. Sources are
read lazily and in a fixed order (files by path, rows as they stand), so the same files always give the same stream, and
memory holds one document at a time. Bad input of a user's stops with its file and line; what the interpreter ships
(`python-stdlib`) is taken as it is, and the few files that are no UTF-8 text are skipped and counted.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clearseek.config import DataConfig
from clearseek.errors import UserError, nearest

MAX_DOCUMENT_BYTES = 16 * 2**20
"""Longest document and longest line, in bytes. It bounds memory: tokenising takes about 150 bytes for each of these."""

COLLECTION_BYTES = 256 * 2**10
"""A `files` file above this is no single document but a collection of them, such as all plays in one file."""
PART_BYTES = 16 * 2**10
"""Size about which a collection is cut into documents, so that some of them can be held out."""

_TEST_FOLDERS = frozenset({"test", "tests", "idle_test", "testing"})
# Not the standard library, or not the same from one installation of a Python version to the next: installed packages,
# bytecode, and files generated when this interpreter was built or set up (they carry the builder's paths).
_FOREIGN_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__"})
_GENERATED = ("config-*", "_sysconfigdata*", "sitecustomize.py", "usercustomize.py")


@dataclass(frozen=True, slots=True)
class Document:
    """One text. `sha256` (hex) and `bytes` are those of its UTF-8 bytes, which for a file are the file's own."""

    id: str
    """Where it is: a path relative to the source, for a row followed by ``:`` and its line or row, from 1."""
    text: str
    sha256: str
    bytes: int
    licence: str
    """SPDX id, or ``unknown``."""
    source: str
    """Kind of source, for `hub` with the dataset and its commit."""


@dataclass(frozen=True)
class Source:
    """Text that was found but not yet read."""

    name: str
    """Kind of source, for `hub` with the dataset and its commit: ``hub:owner/name@commit``."""
    licence: str
    files: tuple[tuple[str, Path], ...]
    """Name and place of every file, in reading order."""
    reader: Callable[[str, Path], Iterator[tuple[str, bytes]]]
    """Yields (id, UTF-8 bytes) of each document in a file."""
    lenient: bool = False
    """Whether unusable documents are skipped rather than refused."""

    def documents(self, skipped: list[str] | None = None) -> Iterator[Document]:
        """Read everything. Ids of documents left out (only when `lenient`) are appended to `skipped`.

        Raises:
            UserError: a document is empty, binary, not UTF-8, too long or not readable. The message names it.
        """
        for name, path in self.files:
            try:
                for identity, content in self.reader(name, path):
                    text = _text(identity, content)
                    digest = hashlib.sha256(content).hexdigest()
                    yield Document(identity, text, digest, len(content), self.licence, self.name)
            except UserError:
                if not self.lenient:
                    raise
                if skipped is not None:
                    skipped.append(name)


def documents(config: DataConfig, base: Path) -> Iterator[Document]:
    """Every document of `config`'s source, duplicates included; relative paths start at `base`. Raises UserError."""
    return open_source(config, base).documents()


def open_source(config: DataConfig, base: Path) -> Source:
    """Find the files of `config`'s source (and download those of `hub`) without reading them.

    Raises:
        UserError: a pattern matches nothing, a folder may not be read, or a library is missing.
    """
    if config.source == "python-stdlib":
        return _stdlib(config.include_tests)
    if config.source == "hub":
        return _hub(config)
    reader = _READERS[config.source](config.text_field)
    return Source(config.source, config.licence, _find(config.paths, base), reader)


# Finding files


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
    return Source("python-stdlib", "PSF-2.0", tuple(named), _read_whole, lenient=True)


def _in_stdlib(name: str, include_tests: bool) -> bool:
    if name in _FOREIGN_FOLDERS or any(fnmatch.fnmatchcase(name, pattern) for pattern in _GENERATED):
        return False
    return include_tests or name not in _TEST_FOLDERS


def _find(patterns: tuple[str, ...], base: Path) -> tuple[tuple[str, Path], ...]:
    """Files that `patterns` name, each once, sorted by their path from `base`. Raises UserError."""
    if not patterns:
        raise UserError("data.paths is empty: name at least one file or glob, such as 'texts/**/*.txt'")
    found: dict[str, Path] = {}
    for pattern in patterns:
        for match in _matches(base, pattern):
            found[Path(os.path.relpath(match, base)).as_posix()] = match
    return tuple(sorted(found.items()))


def _matches(base: Path, pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    start, parts = (Path(path.anchor), path.parts[1:]) if path.is_absolute() else (base, path.parts)
    try:
        matches = list(_expand(start, parts or (".",)))
    except OSError as error:
        raise UserError(f"{error.filename}: cannot read: {error.strerror}; fix its permissions") from None
    if not matches:
        raise UserError(
            f"{pattern}: data.paths names no file there (relative paths start at "
            f"{base}): set others, for example with --set 'data.paths=[\"my.txt\"]'"
        )
    return matches


def _expand(folder: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    """Files below `folder` that match the glob `parts`; ``**`` is any depth. Unlike `Path.glob`, which passes over a
    folder that it may not read, this lets the OSError out: a corpus must not depend on who prepares it.
    """
    head, rest = parts[0], parts[1:]
    if head == "**":
        yield from _expand(folder, rest or ("*",))
        for path in _children(folder, "*"):
            if path.is_dir() and not path.is_symlink():  # a link may lead back up
                yield from _expand(path, parts)
        return
    magic = any(character in head for character in "*?[")
    for path in _children(folder, head) if magic else (folder / head,):
        if rest:
            if path.is_dir():
                yield from _expand(path, rest)
        elif path.is_file():
            yield path
        elif not magic and path.is_dir():
            raise UserError(f"{path}: is a folder: name the files in it by a glob, such as {path / '**' / '*.txt'}")
        elif not magic and path.exists():
            raise UserError(f"{path}: is no regular file: copy its text into one")


def _children(folder: Path, pattern: str) -> list[Path]:
    """Entries of a folder that match, sorted; hidden ones only for a pattern that starts with a dot, as in a shell."""
    names = fnmatch.filter(sorted(os.listdir(folder)), pattern)  # noqa: PTH208 - only the names are needed
    return [folder / name for name in names if not name.startswith(".") or pattern.startswith(".")]


def _hub(config: DataConfig) -> Source:
    """Download ``owner/name`` or ``owner/name@revision``; further entries of `paths` choose files inside it."""
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(f'data.source = "hub" needs huggingface_hub: {_EXTRA}') from None
    if not config.paths or config.paths[0].partition("@")[0].count("/") != 1:
        raise UserError(
            f"data.paths = {list(config.paths)}: a hub source starts with a dataset id, owner/name[@revision]"
        )
    (dataset, _, revision), patterns = config.paths[0].partition("@"), config.paths[1:]
    wanted = patterns or ("*.parquet", "*.jsonl")
    try:
        root = Path(
            huggingface_hub.snapshot_download(
                dataset, repo_type="dataset", revision=revision or None, allow_patterns=list(wanted)
            )
        )
    except Exception as error:  # its many kinds: no network, no such dataset, gated, offline and not cached
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{config.paths[0]}: cannot download the dataset: {reason}; check the id and the network "
            "(HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN are honoured)"
        ) from None
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    # The cache may hold more than was asked for; patterns are the downloader's, where `*` also matches `/`.
    names = [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)]
    strange = [name for name in names if not name.endswith((".parquet", ".jsonl"))]
    if strange or not names:
        problem = f"{strange[0]} is neither .parquet nor .jsonl" if strange else f"no file matches {', '.join(wanted)}"
        raise UserError(f'{dataset}: {problem}: choose files by patterns after the id, such as "data/train-*.parquet"')

    def read(name: str, path: Path) -> Iterator[tuple[str, bytes]]:
        kind = "parquet" if name.endswith(".parquet") else "jsonl"
        return _READERS[kind](config.text_field)(name, path)

    name = f"hub:{dataset}@{root.name}"  # a snapshot's folder is named by its commit
    return Source(name, config.licence, tuple((name, root / name) for name in names), read)


# Reading files


def _read_whole(name: str, path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from None
    yield name, content


def _read_parts(name: str, path: Path) -> Iterator[tuple[str, bytes]]:
    """A file; or the parts of a collection, cut after the first blank line past PART_BYTES, or a line past twice that.

    A part's id ends in the number of its first line.
    """
    try:
        with path.open("rb") as file:
            start = file.read(COLLECTION_BYTES + 1)
            if len(start) <= COLLECTION_BYTES:
                yield name, start
                return
            file.seek(0)
            part, first, number = bytearray(), 1, 0
            while line := file.readline(MAX_DOCUMENT_BYTES + 1):
                part += line
                number += 1
                if len(part) >= PART_BYTES and (not line.strip() or len(part) >= 2 * PART_BYTES):
                    yield f"{name}:{first}", bytes(part)
                    part, first = bytearray(), number + 1
            if part:
                yield f"{name}:{first}", bytes(part)
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from None


def _read_jsonl(field: str) -> Callable[[str, Path], Iterator[tuple[str, bytes]]]:
    def read(name: str, path: Path) -> Iterator[tuple[str, bytes]]:
        try:
            with path.open("rb") as file:
                number = 0
                while line := file.readline(MAX_DOCUMENT_BYTES + 1):
                    number += 1
                    yield f"{name}:{number}", _field(f"{name}:{number}", line, field)
        except OSError as error:
            raise UserError(f"{path}: cannot read: {error.strerror}") from None
        if not number:
            raise UserError(f"{name}: the file is empty: remove it from data.paths")

    return read


def _field(where: str, line: bytes, field: str) -> bytes:
    if len(line) > MAX_DOCUMENT_BYTES:
        raise UserError(f"{where}: longer than {MAX_DOCUMENT_BYTES >> 20} MiB: split the document into several lines")
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError:
        raise UserError(f"{where}: not UTF-8 text: convert the file, for example with iconv") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not one JSON object on one line: {error}") from None
    if not isinstance(row, dict):
        raise UserError(f'{where}: the line is not a JSON object, such as {{"{field}": "..."}}')
    if field not in row:
        raise UserError(f'{where}: no field "{field}"{nearest(field, row)}: set data.text_field')
    return _utf8(where, row[field], field)


def _utf8(where: str, value: Any, field: str) -> bytes:
    if not isinstance(value, str):
        raise UserError(f'{where}: "{field}" is {type(value).__name__}, not text: set data.text_field')
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: a lone surrogate escape (\\ud800 to \\udfff) is no text: remove it") from None


def _read_parquet(field: str) -> Callable[[str, Path], Iterator[tuple[str, bytes]]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"parquet files need pyarrow: {_EXTRA}") from None

    def read(name: str, path: Path) -> Iterator[tuple[str, bytes]]:
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                if field not in file.schema_arrow.names:
                    columns = file.schema_arrow.names
                    raise UserError(
                        f'{name}: no column "{field}"{nearest(field, columns)}; columns: {", ".join(columns)}: '
                        "set data.text_field"
                    )
                number = 0
                for batch in file.iter_batches(batch_size=64, columns=[field]):
                    for value in batch.column(0):
                        number += 1
                        where = f"{name}:{number}"
                        yield where, _utf8(where, value.as_py(), field)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: not a readable parquet file of UTF-8 text: {error}") from None
        if not number:
            raise UserError(f"{name}: the file has no rows: remove it from data.paths")

    return read


def _text(where: str, content: bytes) -> str:
    """The text of a document's bytes, or a UserError when there is none."""
    if not content:
        raise UserError(f"{where}: the document is empty: remove it, or narrow data.paths")
    if len(content) > MAX_DOCUMENT_BYTES:
        raise UserError(f"{where}: longer than {MAX_DOCUMENT_BYTES >> 20} MiB: split the document into several")
    if b"\0" in content:
        raise UserError(f"{where}: a NUL byte at {content.index(0)}: this is no text; narrow data.paths")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: not UTF-8 (byte {error.start}): convert it, for example with iconv, or narrow data.paths"
        ) from None


_EXTRA = "pip install -e '.[data]' in your clone of ClearSeek"

_READERS: dict[str, Callable[[str], Callable[[str, Path], Iterator[tuple[str, bytes]]]]] = {
    "files": lambda field: _read_parts,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
}
