"""From a file to documents: text, JSON, CSV, Parquet; compressed or not.

Every reader looks at the first bytes before it reads (:mod:`clearseek.filetypes`): gzip, zstd, bzip2 and xz are
decompressed under any file name, a byte order mark is dropped, and a file of another kind is named with its cure. A
reader yields (id, content) for each document, in order; content is the document's bytes, or why they are unusable.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

from clearseek.data.cut import parts
from clearseek.data.find import shown
from clearseek.data.rows import (
    MAX_DOCUMENT_BYTES,
    UnusableError,
    has_field,
    not_utf8,
    parse,
    row_text,
    too_long,
    value_text,
)
from clearseek.errors import UserError, nearest
from clearseek.filetypes import HEAD_BYTES, UTF8_BOM, FileKind, expect, recognise

Rows = Iterator[tuple[str, bytes | UnusableError]]
Reader = Callable[[str, Path], Rows]
"""A function of a file's name and path."""

MAX_JSON_BYTES = 256 * 2**20
"""Bytes of the longest JSON file with a single value, which is read whole."""
COLLECTION_BYTES = 256 * 2**10
"""Bytes above which a text file counts as a collection of documents, such as all plays in one file."""
PART_BYTES = 16 * 2**10
"""Approximate bytes of the documents that a collection is cut into, so that some can be held out."""
EXTRA = "pip install -e '.[data]' in your clone of ClearSeek"

TEXTUAL = frozenset({"UTF-8 BOM", "HTML"})
"""Kinds of file that the text reader accepts."""
_COMPRESSIONS = ("gzip", "bzip2", "xz", "zstd")
_DELIMITERS = (",", ";", "\t", "|")
_COMMENTS = (b"#", b"//")
_EXCEL = re.compile(r"sep=.\s*$", re.IGNORECASE)  # Excel's line that states the delimiter, before the header


def _decompressor(kind: str, path: Path) -> Any:
    """A file object of the decompressed data."""
    if kind != "zstd":
        library: Any = {"gzip": gzip, "bzip2": bz2, "xz": lzma}[kind]
        return library.open(path, "rb")
    try:
        import pyarrow
    except ImportError:
        raise UserError(f"{path}: reading zstd data needs pyarrow: {EXTRA}; or decompress it with unzstd") from None
    return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))


@contextmanager
def opened(path: Path, wanted: str, kinds: frozenset[str]) -> Iterator[IO[bytes]]:
    """The content of a file, decompressed, without a byte order mark.

    Args:
        path: The file.
        wanted: Expected content, for the message.
        kinds: Names of the accepted kinds of file (:class:`FileKind`).

    Raises:
        UnusableError: the file is of another kind.
        UserError: the file cannot be read, or its compressed data are damaged.
    """
    place = shown(str(path))
    try:
        opener: Callable[[], IO[bytes]] = lambda: path.open("rb")  # noqa: E731 - a file by its path, as the others
        kind = _look(opener, path)
        if kind and kind.name in _COMPRESSIONS:
            opener = partial(_decompressor, kind.name, path)
            kind = _look(opener, path)
        if kind and kind.name not in kinds:
            raise UnusableError(kind.name, f"{place}: this is {kind.phrase}, not {wanted}: {kind.cure}")
        with opener() as file:
            start = file.read(len(UTF8_BOM))
            if start != UTF8_BOM:
                file.close()
                file = opener()
            with file:
                yield file
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise UserError(f"{place}: damaged compressed data ({error}): fetch it again") from None
    except OSError as error:
        if error.errno is not None:
            raise UserError(f"{place}: cannot read: {error.strerror}") from None
        raise UserError(f"{place}: damaged compressed data ({error}): fetch it again") from None  # raised by pyarrow


def _look(opener: Callable[[], IO[bytes]], path: Path) -> FileKind | None:
    with opener() as file:
        return recognise(file.read(HEAD_BYTES), path.name)


# Text


def text_reader(part_bytes: int) -> Reader:
    """A reader of text files, which cuts files longer than `part_bytes` into parts; 0 cuts only collections."""

    def read(name: str, path: Path) -> Rows:
        try:
            with opened(path, "UTF-8 text", TEXTUAL) as file:
                most = part_bytes or COLLECTION_BYTES
                start = file.read(most + 1)
            if len(start) <= most:
                yield name, start
                return
            with opened(path, "UTF-8 text", TEXTUAL) as file:
                for place, part in parts(file, part_bytes or PART_BYTES):
                    yield f"{name}:{place}", part
        except UnusableError as error:
            yield name, error

    return read


def read_whole(name: str, path: Path) -> Rows:
    """Read one file as one document; a file that cannot be read is unusable."""
    try:
        with path.open("rb") as file:
            yield name, file.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        yield name, UnusableError("not readable", f"{path}: cannot read: {error.strerror}")


# JSON


def json_reader(field: str) -> Reader:
    """A reader of JSON: an object a line, one array of objects, or one object that holds such an array."""

    def read(name: str, path: Path) -> Rows:
        lines = _is_lines(path)
        if lines is None:
            return
        if not lines:
            yield from _read_json(name, path, field)
            return
        with _rows(path, "JSON") as file:
            number = 0
            while line := file.readline(MAX_DOCUMENT_BYTES + 1):
                number += 1
                if line.strip():
                    yield f"{name}:{number}", _line_text(f"{name}:{number}", line, field)
                while len(line) > MAX_DOCUMENT_BYTES and not line.endswith(b"\n"):
                    line = file.readline(MAX_DOCUMENT_BYTES + 1)  # the rest of a line that is too long

    return read


@contextmanager
def _rows(path: Path, wanted: str) -> Iterator[IO[bytes]]:
    """A file of rows; another kind of file is always an error, because skipping it would lose all its rows."""
    try:
        with opened(path, wanted, frozenset({"UTF-8 BOM"})) as file:
            yield file
    except UnusableError as error:
        raise UserError(str(error)) from None


def _is_lines(path: Path) -> bool | None:
    """Whether a file has one JSON object a line, judged by its first two lines, or by comments (each an unusable line)
    at the beginning; None for a file with only blank lines.
    """
    with _rows(path, "JSON") as file:
        seen: list[bytes] = []
        commented = False
        while len(seen) < 2 and (line := file.readline(MAX_DOCUMENT_BYTES + 1)):
            comment = line.lstrip().startswith(_COMMENTS)
            commented |= comment
            seen += [line] if line.strip() and not comment else []
    if commented:
        return True
    if not seen:
        return None
    if len(seen) < 2 or seen[0].lstrip().startswith(b"["):
        return False
    return any(isinstance(_try(line), dict) for line in seen)


def _try(line: bytes) -> Any:
    try:
        return parse(line.decode())
    except (ValueError, RecursionError):
        return None


def _line_text(where: str, line: bytes, field: str) -> bytes | UnusableError:
    if len(line) > MAX_DOCUMENT_BYTES:
        return too_long(where)
    try:
        return row_text(where, parse(line.decode()), field)
    except UnicodeDecodeError:
        return not_utf8(where)
    except (ValueError, RecursionError) as error:
        return UnusableError("not JSON", f"{where}: not one JSON object on one line: {_cure('', error)}")


def _cure(name: str, error: Exception) -> str:
    """The fault in a text that is not JSON, in words for people."""
    reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
    if isinstance(error, json.JSONDecodeError) and reason.endswith(" at"):
        reason += f" character {error.colno}"
    hint = ' (data.source = "csv" reads CSV)' if Path(name).suffix.lower() in (".csv", ".tsv") else ""
    return f"{reason[:1].lower()}{reason[1:]}{hint}"


def _read_json(name: str, path: Path, field: str) -> Rows:
    """Read a file that is one JSON value, or several values of many lines each."""
    with _rows(path, "JSON") as file:
        content = file.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise UserError(
            f"{name}:1: longer than {MAX_JSON_BYTES >> 20} MiB as one JSON value: write one object a line, "
            "for example with jq -c '.[]'"
        )
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise not_utf8(f"{name}:{line}") from None
    values: list[Any] = []
    at = 0
    decoder = json.JSONDecoder(parse_int=float)
    while at < len(text):
        if text[at].isspace() or text[at] == "\ufeff":
            at += 1
            continue
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            place = error.pos if isinstance(error, json.JSONDecodeError) else at
            line = text.count("\n", 0, place) + 1
            comma = values and text[at] == ","
            cure = "a comma between objects: remove it, or put [ ] around them all" if comma else _cure(name, error)
            raise UserError(f"{name}:{line}: not JSON: {cure}") from None
        values.append(value)
    rows = _rows_of(name, values[0], field) if len(values) == 1 else values
    for number, row in enumerate(rows, 1):
        yield f"{name}:{number}", row_text(f"{name}:{number}", row, field)


def _rows_of(name: str, value: Any, field: str) -> list[Any]:
    """The rows of a JSON value: an array's elements, or the elements of an object's only array of objects."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict) or has_field(value, field):
        return [value]
    lists = {key: each for key, each in value.items() if isinstance(each, list) and each and isinstance(each[0], dict)}
    if len(lists) > 1:
        raise UserError(
            f"{name}: rows under {', '.join(lists)}: only one list of rows can be read: make a file of each"
        )
    return next(iter(lists.values()), [value])


# CSV


def csv_reader(field: str) -> Reader:
    """A reader of CSV with a header; the delimiter is the comma, semicolon, tab or bar that the header has."""

    def read(name: str, path: Path) -> Rows:
        csv.field_size_limit(MAX_DOCUMENT_BYTES + 1)
        with _rows(path, "CSV") as file:
            lines = _decoded(name, file)
            line = 1
            try:
                header = _header(name, lines, field)
                if header is None:
                    return
                column, delimiter, before = header
                table = csv.reader(lines, delimiter=delimiter, strict=True)  # else an open quote takes all to the end
                line = before + 1
                for row in table:
                    where = f"{name}:{line}"
                    line = before + table.line_num + 1
                    if row:
                        content = row[column].encode(errors="surrogateescape") if column < len(row) else None
                        yield where, value_text(where, content, field)
            except csv.Error as error:
                raise UserError(f"{name}:{line}: not CSV: {error} (is a quote not closed, or not doubled?)") from None

    return read


def _decoded(name: str, file: IO[bytes]) -> Iterator[str]:
    """Lines that end as on Unix, Windows or old Macintoshes; a byte that is not UTF-8 is escaped (PEP 383)."""
    number = 0
    while line := file.readline(MAX_DOCUMENT_BYTES + 1):
        number += 1
        if len(line) > MAX_DOCUMENT_BYTES:
            raise UserError(str(too_long(f"{name}:{number}")))
        yield from io.StringIO(line.decode(errors="surrogateescape"), newline="")


def _header(name: str, lines: Iterator[str], field: str) -> tuple[int, str, int] | None:
    """(Place of the field in the header, delimiter, number of the header's last line); None for no header."""
    rows = ((number, line) for number, line in enumerate(lines) if line.strip() and not _EXCEL.match(line))
    number, first = next(rows, (0, ""))
    taken = [first]
    if not first:
        return None
    columns = {delimiter: next(csv.reader(_more(taken, lines), delimiter=delimiter)) for delimiter in _DELIMITERS}
    for delimiter, names in columns.items():
        if field in names:
            return names.index(field), delimiter, number + len(taken)
    most = max(columns.values(), key=len)
    hint = ' (data.source = "jsonl" reads JSON lines)' if taken[0].startswith(("{", "[")) else ""
    raise UserError(
        f'{name}: no column "{field}"{nearest(field, most)} in the header of this CSV; '
        f"columns: {shown(', '.join(most)):.300}: set data.text_field{hint}"
    )


def _more(taken: list[str], lines: Iterator[str]) -> Iterator[str]:
    """The taken lines of a header again, and further lines where a quote goes on, which are added to `taken`."""
    yield from taken[:]
    for line in lines:
        taken.append(line)
        yield line


# Parquet


def parquet_reader(field: str) -> Reader:
    """A reader of Parquet files; dots in the field's name lead into structs."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"parquet files need pyarrow: {EXTRA}") from None

    def read(name: str, path: Path) -> Rows:
        try:
            expect(path, "Parquet", "Parquet")
            with pyarrow.parquet.ParquetFile(path) as file:
                columns = file.schema_arrow.names
                column = field if field in columns else field.partition(".")[0]
                if column not in columns:
                    raise UserError(
                        f'{name}: no column "{field}"{nearest(field, columns)}; columns: {", ".join(columns)}: '
                        "set data.text_field"
                    )
                number = 0
                for batch in file.iter_batches(batch_size=64, columns=[column]):
                    for value in batch.column(0):
                        number += 1
                        where = f"{name}:{number}"
                        yield where, row_text(where, {column: value.as_py()}, field)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{shown(str(path))}: not a readable parquet file of UTF-8 text: {error}") from None

    return read


READERS: dict[str, Callable[[str], Reader]] = {"jsonl": json_reader, "csv": csv_reader, "parquet": parquet_reader}
"""Makers of readers of rows for a text field, by the kind of source."""
