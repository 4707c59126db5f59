"""The kind of a file, told by its first bytes, whatever its name says.

Most formats begin with bytes of their own ("magic"). A reader that meets the wrong format complains about the first
byte that it cannot use (a Parquet file "is not UTF-8", a Git-LFS pointer "is not JSON"), and the user mends the wrong
thing. So everything that opens a user's file looks at the beginning first, and names the kind and the cure.

Text is never taken for another kind: a magic made of letters counts only before bytes that text does not have, an HTML
page only by how it begins, a pointer only as the whole file. UTF-16 and UTF-32 without a byte order mark are told by
their NUL bytes, which text does not have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from clearseek.errors import UserError

HEAD_BYTES = 4096
"""Bytes from the beginning that `recognise` needs."""

UTF8_BOM = b"\xef\xbb\xbf"
"""Byte order mark that Windows programs put before UTF-8 text, and which is not part of the text."""


@dataclass(frozen=True, slots=True)
class FileKind:
    """Kind of a file."""

    name: str
    """Short name, such as ``gzip`` or ``Git-LFS pointer``."""
    phrase: str
    """The name with its article for a sentence, such as ``an HTML page``."""
    cure: str
    """Advice where another kind was expected: one clause."""


_PLAIN_TEXT = "convert it to plain text"
_UNPACK = "unpack it"
_ARRAY = "use text or a model's weights"
_LEAVE_OUT = "leave it out"

# Beginnings that UTF-8 text cannot have.
_MAGIC: tuple[tuple[bytes, FileKind], ...] = (
    (b"\x1f\x8b", FileKind("gzip", "gzip data", "decompress it with gunzip")),
    (b"\x28\xb5\x2f\xfd", FileKind("zstd", "zstd data", "decompress it with unzstd")),
    (b"\xfd7zXZ\0", FileKind("xz", "xz data", "decompress it with unxz")),
    (b"\x04\x22\x4d\x18", FileKind("LZ4", "LZ4 data", "decompress it with unlz4")),
    (b"7z\xbc\xaf\x27\x1c", FileKind("7z", "a 7z archive", _UNPACK)),
    (b"\x93NUMPY", FileKind("NumPy", "a NumPy array", _ARRAY)),
    (b"\x89HDF\r\n\x1a\n", FileKind("HDF5", "an HDF5 file", "convert it to safetensors or Parquet")),
    (b"\x89PNG\r\n\x1a\n", FileKind("PNG", "a PNG image", _LEAVE_OUT)),
    (b"\xff\xd8\xff", FileKind("JPEG", "a JPEG image", _LEAVE_OUT)),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", FileKind("Office", "an old Office document", _PLAIN_TEXT)),
    (b"ARROW1\0\0", FileKind("Arrow", "an Arrow file", "write it as Parquet")),
    (b"\x7fELF", FileKind("program", "a compiled program", _LEAVE_OUT)),
)
# Beginnings made of letters: the kind holds only before bytes that text does not have.
_LETTERS: tuple[tuple[bytes, FileKind], ...] = (
    (b"BZh", FileKind("bzip2", "bzip2 data", "decompress it with bunzip2")),
    (b"Rar!", FileKind("RAR", "a RAR archive", _UNPACK)),
    (b"GGUF", FileKind("GGUF", "a GGUF model", "use the model's safetensors files")),
    (b"PAR1", FileKind("Parquet", "a Parquet file", 'read it as rows: data.source = "parquet"')),
    (b"SQLite format 3", FileKind("SQLite", "an SQLite database", "export its text as JSON lines")),
    (b"GIF8", FileKind("GIF", "a GIF image", _LEAVE_OUT)),
    (b"RIFF", FileKind("RIFF", "a sound, picture or film (RIFF)", _LEAVE_OUT)),
    (b"OggS", FileKind("Ogg", "a sound (Ogg)", _LEAVE_OUT)),
    (b"ID3", FileKind("MP3", "a sound (MP3)", _LEAVE_OUT)),
    (b"MZ", FileKind("program", "a compiled program", _LEAVE_OUT)),
)
# Formats made of text, by how they begin.
_TEXTUAL: tuple[tuple[re.Pattern[bytes], FileKind], ...] = (
    (re.compile(rb"%PDF-\d"), FileKind("PDF", "a PDF document", "extract its text, for example with pdftotext")),
    (re.compile(rb"%!PS-Adobe"), FileKind("PostScript", "a PostScript document", "extract its text")),
    (re.compile(rb"\{\\rtf\d"), FileKind("RTF", "an RTF document", _PLAIN_TEXT)),
    (
        re.compile(
            rb"\s*(<\?xml[^>]*\?>\s*)?((?><!--.*?-->)\s*)*"
            rb"(<!doctype\s+html\b|<html[\s>]|<head>\s*<(meta|title|script|link)\b)",
            re.IGNORECASE | re.DOTALL,
        ),
        FileKind("HTML", "an HTML page", "download the file itself, or extract the page's text"),
    ),
)

_ZIP = re.compile(rb"PK(\x03\x04|\x05\x06|\x07\x08)")
_PICKLE = FileKind("pickle", "a pickle", "pickles can run code and are never opened: convert it to safetensors")
_LFS = re.compile(
    rb"version https://(?:git-lfs|hawser)\.github\.com/spec/v1\r?\n(?:ext-[^\n]*\n)*"
    rb"oid sha256:(?P<oid>[0-9a-f]{1,64})\r?\nsize (?P<size>\d{1,20})\s*"
)
LFS_START = b"version https://git-lfs.github.com/spec/"
"""Beginning of every Git-LFS pointer, whatever its version and further lines."""
_ANNEX = re.compile(rb"(?:\.\./){0,40}(?:\.git)?/annex/objects/\S+\s*")
_ANNEX_KEY = re.compile(rb"/SHA256E?-s(?P<size>\d{1,20})--(?P<oid>[0-9a-f]{64})")
POINTER_BYTES = 1024
"""Most bytes of a pointer, by the specification of git-lfs."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """What a clone without large files holds in place of one."""

    size: int
    """Bytes of the file that it points to; 0 where it does not say."""
    sha256: str
    """The file's SHA-256 in hex, or an empty string."""


def read_pointer(content: bytes) -> Pointer | None:
    """What a file points to, by its whole content; None for a file that is its own content."""
    if len(content) > POINTER_BYTES:
        return None
    if content.startswith(LFS_START):
        size = re.search(rb"^size (\d{1,18})\s*$", content, re.M)
        oid = re.search(rb"^oid sha256:([0-9a-f]{64})\s*$", content, re.M)
        return Pointer(int(size[1]) if size else 0, oid[1].decode() if oid else "")
    if _ANNEX.fullmatch(content):
        key = _ANNEX_KEY.search(content)
        return Pointer(int(key["size"]), key["oid"].decode()) if key else Pointer(0, "")
    return None


def recognise(head: bytes, name: str = "") -> FileKind | None:
    """The kind of a file, by the first `HEAD_BYTES` bytes (or all, when it has fewer).

    Args:
        head: The file's beginning.
        name: The file's name, which tells apart Word, Excel and the like, all of them zip archives.

    Returns:
        The kind, or None for UTF-8 text without a byte order mark and for everything unknown.
    """
    bare = head.removeprefix(UTF8_BOM)
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    for magic, kind in _LETTERS:
        if head.startswith(magic) and _has_control(head[len(magic) : 64]):
            return kind
    for pattern, kind in _TEXTUAL:
        if pattern.match(bare):
            return kind
    found = _zip(head, name) or _weights(head) or _pointer(bare) or _wide(head)
    if found is None and len(bare) < len(head):
        return FileKind("UTF-8 BOM", "text with a UTF-8 byte order mark", "remove its first three bytes")
    return found


def recognise_file(path: Path) -> FileKind | None:
    """The kind of the file at `path`. Raises OSError when it cannot be read."""
    with path.open("rb") as file:
        return recognise(file.read(HEAD_BYTES), path.name)


def expect(path: Path, wanted: str, *names: str) -> None:
    """Refuse a file that is recognised as another kind than the one expected.

    Args:
        path: The file.
        wanted: Expected kind, for the message, such as ``JSON``.
        names: Names of kinds that are accepted.

    Raises:
        UserError: the file is of another kind; the message names kind and cure.
        OSError: the file cannot be read.
    """
    kind = recognise_file(path)
    if kind and kind.name not in names:
        raise UserError(f"{path}: this is {kind.phrase}, not {wanted}: {kind.cure}")


def _has_control(content: bytes) -> bool:
    """Whether there are control characters other than white space and escape, which text does not have."""
    return re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", content) is not None


def _zip(head: bytes, name: str) -> FileKind | None:
    """Kind of a zip archive, by the name of its first member."""
    if not _ZIP.match(head):
        return None
    member = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    ending = name.rpartition(".")[2].lower()
    if member.endswith(b"data.pkl"):
        return _PICKLE
    if member.endswith(b".npy"):
        return FileKind("NumPy", "a NumPy archive", _ARRAY)
    if member in (b"[Content_Types].xml", b"mimetype") or member.startswith((b"_rels/", b"docProps/")):
        if ending in ("xlsx", "ods"):
            return FileKind("Office", "a spreadsheet", "save it as CSV")
        return FileKind("Office", "an Office document or e-book", _PLAIN_TEXT)
    return FileKind("zip", "a zip archive", "unpack it with unzip")


def _weights(head: bytes) -> FileKind | None:
    """Pickles by their protocol byte, safetensors by the length of their header, Arrow streams, tar archives."""
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return _PICKLE
    if head[4:8] == b"\0\0\0\0" and head[8:9] == b"{":
        return FileKind("safetensors", "a safetensors file", "it holds weights: use text")
    if head[:4] == b"\xff\xff\xff\xff" and head[7:8] == b"\0":
        return FileKind("Arrow", "an Arrow file", "write it as Parquet")
    if head[257:262] == b"ustar":
        return FileKind("tar", "a tar archive", "unpack it with tar -xf")
    return None


def _pointer(head: bytes) -> FileKind | None:
    """Kind of a pointer, which a clone holds in place of a large file."""
    if len(head) <= POINTER_BYTES and (match := _LFS.fullmatch(head)):
        size, oid = int(match["size"]), match["oid"].decode()[:12]
        phrase = f"a Git-LFS pointer (to {size:,} bytes, SHA-256 {oid}…)"
        return FileKind("Git-LFS pointer", phrase, "fetch the content with git lfs pull")
    if len(head) <= POINTER_BYTES and _ANNEX.fullmatch(head):
        return FileKind("git-annex pointer", "a git-annex pointer", "fetch the content with git annex get")
    return None


def _wide(head: bytes) -> FileKind | None:
    """UTF-32 and UTF-16, by the mark or by NULs on one side of nearly every character."""
    for name, marks in (("UTF-32", (b"\xff\xfe\0\0", b"\0\0\xfe\xff")), ("UTF-16", (b"\xff\xfe", b"\xfe\xff"))):
        if head.startswith(marks):
            return _wide_kind(name, name)
    places = [head[place : len(head) // 4 * 4 : 4].count(0) for place in range(4)]
    few, most = len(head) // 40, len(head) // 4 * 0.7
    for name, zeros, letters in (
        ("UTF-32LE", (1, 2, 3), (0,)),
        ("UTF-32BE", (0, 1, 2), (3,)),
        ("UTF-16LE", (1, 3), (0, 2)),
        ("UTF-16BE", (0, 2), (1, 3)),
    ):
        if len(head) >= 8 and all(places[p] > most for p in zeros) and all(places[p] <= few for p in letters):
            return _wide_kind(name[:6], name)
    return None


def _wide_kind(name: str, code: str) -> FileKind:
    return FileKind(name, f"{name} text", f"convert it with iconv -f {code} -t UTF-8")
