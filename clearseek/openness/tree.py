"""The files of a folder that somebody else made, without leaving it.

A stranger's folder may hold links to ``/etc``, pipes that never end, names that look like others or hold ``..``. The
walk lists regular files alone and reports the rest; a file is opened one path component at a time, none of which may be
a link, so that what was listed is what is read even if the folder changes meanwhile (``openat`` with ``O_NOFOLLOW``).
One kind of link is followed: the download cache of the Hugging Face hub keeps ``snapshots/<revision>/<file>`` as links
to ``../../blobs/<hash>``.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from clearseek.errors import UserError

MOST_FILES: Final = 200_000
DEEPEST: Final = 40
_BLOB = re.compile(r"(?:\.\./)+blobs/([0-9a-f]{40,64})")
_DECEIVING: Final = frozenset(["Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"])
"""Unicode categories without a shape of their own: control, format (directions, joiners), surrogates, unassigned."""


@dataclass(frozen=True, slots=True)
class File:
    """A regular file."""

    path: str
    """Relative to the root, parts separated by slashes."""
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An entry that a release should not have."""

    path: str
    what: str
    """What is wrong, to stand after the path."""


@dataclass(frozen=True, slots=True)
class Tree:
    """What a folder holds."""

    files: tuple[File, ...]
    """Sorted by path."""
    problems: tuple[Problem, ...]


def walk(root: Path) -> Tree:
    """List a folder. Hidden entries of version control and download caches (``.git``, ``.cache``) are passed over.

    Raises UserError when the root cannot be listed or holds more than `MOST_FILES` files.
    """
    files: list[File] = []
    problems: list[Problem] = []
    try:
        _list(root, "", files, problems, 0)
    except OSError as error:
        raise UserError(f"{root}: cannot list: {error.strerror}") from None
    files.sort(key=lambda file: file.path)
    problems += _alike(files)
    return Tree(tuple(files), tuple(problems))


def _list(root: Path, prefix: str, files: list[File], problems: list[Problem], depth: int) -> None:
    with os.scandir(root / prefix if prefix else root) as entries:
        for entry in entries:
            path = f"{prefix}{entry.name}"
            if entry.name in (".git", ".cache", "__pycache__") and not entry.is_file(follow_symlinks=False):
                continue
            if what := _name_problem(entry.name):
                problems.append(Problem(_shown(path), what))
                continue
            try:
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISLNK(found.st_mode):
                    if (size := _blob_size(root, path)) is None:
                        problems.append(Problem(path, "a link: not followed"))
                    else:
                        files.append(File(path, size))
                elif stat.S_ISDIR(found.st_mode):
                    if depth >= DEEPEST:
                        problems.append(Problem(path, f"more than {DEEPEST} folders deep: not looked into"))
                    else:
                        _list(root, f"{path}/", files, problems, depth + 1)
                elif stat.S_ISREG(found.st_mode):
                    files.append(File(path, found.st_size))
                else:
                    problems.append(Problem(path, "neither a file nor a folder (a pipe, socket or device): not opened"))
            except OSError as error:
                problems.append(Problem(path, f"cannot look at it: {error.strerror}"))
            if len(files) > MOST_FILES:
                raise UserError(f"{root}: more than {MOST_FILES:,} files: no release")


def _blob_size(root: Path, path: str) -> int | None:
    """Size of the cached file that this link of a hub snapshot stands for; None for every other link."""
    blob = _blob(root, path)
    if blob is None:
        return None
    try:
        found = blob.stat(follow_symlinks=False)
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _blob(root: Path, path: str) -> Path | None:
    """The cached file behind a snapshot's link: ``<repo>/snapshots/<revision>/a/b`` to ``<repo>/blobs/<hash>``."""
    absolute = root.absolute()
    if absolute.parent.name != "snapshots":
        return None
    try:
        match = _BLOB.fullmatch((absolute / path).readlink().as_posix())
    except OSError:
        return None
    return absolute.parent.parent / "blobs" / match[1] if match else None


def _name_problem(name: str) -> str:
    """What is wrong with a name; empty when nothing is."""
    if any(unicodedata.category(letter) in _DECEIVING for letter in name):
        return "its name holds characters that cannot be seen"
    if "\\" in name or (len(name) > 1 and name[1] == ":"):
        return "its name is a path on other systems"
    return ""


def _shown(path: str) -> str:
    """The path with invisible characters written out."""
    return "".join(each if unicodedata.category(each) not in _DECEIVING else f"\\u{ord(each):04x}" for each in path)


def _alike(files: list[File]) -> Iterator[Problem]:
    """Names that become one on systems which ignore case or compose accents."""
    seen: dict[str, str] = {}
    for file in files:
        key = unicodedata.normalize("NFKC", file.path).casefold()
        other = seen.setdefault(key, file.path)
        if other != file.path:
            yield Problem(file.path, f"looks like {other}: on some systems the two are one file")


@contextmanager
def open_file(root: Path, path: str) -> Iterator[BinaryIO]:
    """Open a regular file of the folder for reading.

    Raises UserError when a part of the path is a link, leads elsewhere, or is no regular file.
    """
    parts = path.split("/")
    if not path or any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise UserError(f"{root}: {path[:200]!r} is no path inside it")
    blob = _blob(root, path)
    handle = _open_parts(root, parts) if blob is None else _open_parts(blob.parent, [blob.name])
    with os.fdopen(handle, "rb", buffering=0) as raw:
        yield raw


def _open_parts(root: Path, parts: list[str]) -> int:
    """A file descriptor, each part opened in the one before and none of them a link."""
    where = "/".join(parts)
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            inner = os.open(part, flags, dir_fd=folder)
            os.close(folder)
            folder = inner
        handle = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        what = "a link on its way, not followed" if error.errno in (errno.ELOOP, errno.ENOTDIR) else error.strerror
        raise UserError(f"{root / where}: cannot read: {what}") from None
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UserError(f"{root / where}: not a regular file: not read")
    return handle


def read_bytes(root: Path, path: str, limit: int, begin: int = 0) -> bytes:
    """At most `limit` bytes of a file from `begin`. Raises UserError when it cannot be read."""
    try:
        with open_file(root, path) as file:
            file.seek(begin)
            pieces = []
            while limit > 0 and (piece := file.read(min(limit, 1 << 26))):
                pieces.append(piece)
                limit -= len(piece)
            return b"".join(pieces)
    except OSError as error:
        raise UserError(f"{root / path}: cannot read: {error.strerror}") from None
