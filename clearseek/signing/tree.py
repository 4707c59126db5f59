"""Which files a release folder holds, found out without trusting the folder.

A folder from a stranger can lie about where its files are. A link can lead to ``/etc/passwd`` or to a device; a fifo
never ends; ``model.safetensors`` and ``Model.safetensors`` are one file on a Mac and two on Linux; a name can hold
characters that nobody sees. So the walk opens every folder by its parent's handle and refuses links on the way
(``O_NOFOLLOW``), asks an open file whether it is one before reading from it, and reports everything odd as a
:class:`Problem` instead of following it or leaving it out in silence.

Links are allowed in two places, because both are ordinary: to a regular file inside the folder, and, as Hugging Face's
cache has it, from ``snapshots/REVISION/FILE`` to ``blobs/NAME`` beside ``snapshots``. They must be relative and lead
straight to a file; links to folders, to links, and anywhere else are problems. A link's file is read by the path that
the link states, again folder by folder, so that it cannot be swapped in between.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from clearseek.errors import UserError
from clearseek.files import reading
from clearseek.sysfiles import system_file

DEEPEST = 64
"""Folders inside each other; a release needs two or three."""
LONGEST_PATH = 4096
"""Bytes; also what Linux takes."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a fifo would block, a link would lead away
_UNSEEN = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0" + "".join(map(chr, range(0xFE00, 0xFE10)))
"""Letters and marks that show nothing. Unicode files them under categories that are otherwise visible."""
_LINK = re.compile(r"((?:\.\./)*)((?:[^/]+/)*[^/]+)")
_KINDS = {stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


@dataclass(frozen=True, slots=True)
class File:
    """A regular file, or an allowed link to one."""

    path: str
    """Relative to the folder, with slashes."""
    size: int
    """Bytes."""
    link: str = ""
    """Where the link leads, if it is one."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that should not be in a release folder. It was not opened."""

    path: str
    """Path in the folder, with unprintable characters escaped."""
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@dataclass(frozen=True, slots=True)
class Tree:
    """A folder's content, sorted by the bytes of the path."""

    files: tuple[File, ...]
    problems: tuple[Problem, ...]
    skipped: tuple[str, ...] = ()
    """What the caller asked to leave out and is there; a folder ends in a slash and was not looked into."""


class _RefusedError(Exception):
    """Not a file to read; the message completes “PATH: ”."""


def is_stray(file: File) -> bool:
    """Whether a file is what an operating system leaves in folders that are looked at, and so no part of a release."""
    return bool(system_file(file.path)) and not file.link


def walk(root: Path, skip: Iterable[str] = ()) -> Tree:
    """Look at every file below a folder, opening none.

    Args:
        root: The folder. It may itself be reached through links.
        skip: Paths of files and folders to leave out.

    Raises:
        UserError: `root` cannot be read as a folder.
    """
    left_out = frozenset(skip)
    files: list[File] = []
    problems: list[Problem] = []
    skipped: list[str] = []
    seen: list[str] = []
    base = _resolved(root)
    folders: list[tuple[str, ...]] = [()]
    while folders:
        parts = folders.pop()
        try:
            with _opened_folder(base, parts) as handle:
                entries = _entries(handle)
                for name, status in entries:
                    path = "/".join([*parts, name])
                    is_folder = stat.S_ISDIR(status.st_mode)
                    if path in left_out:
                        skipped.append(path + "/" * is_folder)
                        continue
                    try:
                        _check_name(path)
                        seen.append(path)
                        if is_folder:
                            if len(parts) >= DEEPEST:
                                raise _RefusedError(f"more than {DEEPEST} folders inside each other")
                            folders.append((*parts, name))
                        else:
                            files.append(_file(base, path, status, handle))
                    except _RefusedError as refused:
                        problems.append(Problem(visible(path), str(refused)))
        except OSError as error:
            if not parts:
                raise UserError(f"{root}: cannot read the folder: {error.strerror}") from None
            problems.append(Problem(visible("/".join(parts)), f"cannot read the folder: {error.strerror}"))
    problems += [Problem(visible(path), what) for path, what in collisions(seen)]
    return Tree(
        tuple(sorted(files, key=lambda file: path_bytes(file.path))),
        tuple(sorted(problems, key=lambda problem: (path_bytes(problem.path), problem.what))),
        tuple(sorted(skipped, key=path_bytes)),
    )


def open_file(root: Path, path: str) -> BinaryIO:
    """Open one file of a folder for reading, unbuffered, under the same rules as the walk. Raises UserError."""
    try:
        _check_name(path)
        base = _resolved(root)
        *parents, name = path.split("/")
        with _opened_folder(base, tuple(parents)) as handle:
            status = os.stat(name, dir_fd=handle, follow_symlinks=False)
            if not stat.S_ISLNK(status.st_mode):
                return _opened_file(name, handle)
            place, target = _target(base, path, os.readlink(name, dir_fd=handle))
        with _opened_folder(place, target[:-1]) as handle:
            return _opened_file(target[-1], handle)
    except _RefusedError as refused:
        raise UserError(f"{root}: {visible(path)}: {refused}") from None
    except OSError as error:
        raise UserError(f"{root}: {visible(path)}: cannot read: {error.strerror}") from None


def read_bytes(root: Path, path: str, limit: int) -> bytes:
    """One file of a folder as a whole. Raises UserError where it is not a file or has more than `limit` bytes."""
    with open_file(root, path) as file:
        return _read(file, limit, f"{root}: {visible(path)}")


def read_file(file: Path, limit: int) -> bytes:
    """A file that the user named, through any links, but neither a fifo nor a device. Raises UserError."""
    with reading(file):
        handle = os.open(file, _FILE & ~os.O_NOFOLLOW)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise UserError(f"{file}: not a regular file")
        with os.fdopen(handle, "rb", buffering=0) as stream:
            return _read(stream, limit, str(file))


def name_problem(path: str) -> str | None:
    """What makes a path unfit for a release, or None."""
    try:
        _check_name(path)
    except _RefusedError as refused:
        return str(refused)
    return None


def collisions(paths: Iterable[str]) -> list[tuple[str, str]]:
    """Paths that some file systems cannot tell from an earlier one, with the reason."""
    first: dict[str, str] = {}
    found = []
    for path in sorted(paths, key=path_bytes):
        plain = unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())
        if (other := first.setdefault(plain, path)) != path:
            found.append((path, f"the same name as {visible(other)} where case and accents' spelling do not count"))
    return found


def path_bytes(path: str) -> bytes:
    """The path as a file system has it: the order of everything here."""
    return path.encode("utf-8", "surrogateescape")


def visible(text: str) -> str:
    """Text for a message: what a terminal would act on, or not show, is escaped."""
    return "".join(_escaped(each) if each == "\\" or _is_hidden(each) else each for each in text)


def is_below(path: str, places: frozenset[str]) -> bool:
    """Whether a path is one of these places or inside one."""
    while path:
        if path in places:
            return True
        path = path.rpartition("/")[0]
    return False


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def _is_hidden(character: str) -> bool:
    # Cc and Cf: control, direction and zero-width characters; Cs: bytes that are no UTF-8; Zl, Zp: line ends.
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") or character in _UNSEEN


def _check_name(path: str) -> None:
    if len(path) > LONGEST_PATH or len(path.encode("utf-8", "surrogatepass")) > LONGEST_PATH:
        raise _RefusedError(f"the path is longer than {LONGEST_PATH:,} bytes")
    for character in path:
        if _is_hidden(character):
            raise _RefusedError(f"the name holds the invisible character U+{ord(character):04X}")
        if character == "\\":
            raise _RefusedError("the name holds a backslash, which separates folders on Windows")
    if path.startswith("/"):
        raise _RefusedError("the path is absolute")
    if not all(path.split("/")) or {".", ".."} & set(path.split("/")):
        raise _RefusedError("the path holds an empty part, . or ..")


def _resolved(root: Path) -> Path:
    try:
        return root.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{root}: cannot read the folder: {getattr(error, 'strerror', None) or error}") from None


@contextmanager
def _opened_folder(base: Path, parts: tuple[str, ...]) -> Iterator[int]:
    """A handle of a folder below `base`, with no link on the way."""
    handle = os.open(base, _FOLDER)
    try:
        for part in parts:
            inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=handle)
            os.close(handle)
            handle = inner
        yield handle
    finally:
        os.close(handle)


def _entries(handle: int) -> list[tuple[str, os.stat_result]]:
    with os.scandir(handle) as entries:
        return [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]


def _file(base: Path, path: str, status: os.stat_result, handle: int) -> File:
    if stat.S_ISREG(status.st_mode):
        return File(path, status.st_size)
    if not stat.S_ISLNK(status.st_mode):
        raise _RefusedError(f"a {_KINDS.get(stat.S_IFMT(status.st_mode), 'special file')}, not a regular file")
    try:
        link = os.readlink(path.rpartition("/")[2], dir_fd=handle)
        place, target = _target(base, path, link)
        with _opened_folder(place, target[:-1]) as folder:
            status = os.stat(target[-1], dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        raise _RefusedError(f"a link that leads to no file here: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise _RefusedError("a link that does not lead straight to a regular file")
    return File(path, status.st_size, link)


def _target(base: Path, path: str, link: str) -> tuple[Path, tuple[str, ...]]:
    """Where a link leads: a folder that is trusted, and the way from there."""
    if link.startswith("/"):
        raise _RefusedError("a link to an absolute path")
    match = _LINK.fullmatch(link)
    # Only leading "..": after a name, "x/.." is somewhere else if x turns out to be a link.
    if match is None or {".", ".."} & set(match[2].split("/")):
        raise _RefusedError("a link whose target is not spelled as ../../FOLDER/FILE")
    up, down = match[1].count("../"), tuple(match[2].split("/"))
    folders = tuple(path.split("/")[:-1])
    if up <= len(folders):
        return base, (*folders[: len(folders) - up], *down)
    cache = base.parent.parent
    if base.parent.name == "snapshots" and up == len(folders) + 2 and down[0] == "blobs" and len(down) == 2:
        return cache, down
    raise _RefusedError("a link that leads out of the folder")


def _opened_file(name: str, folder: int) -> BinaryIO:
    handle = os.open(name, _FILE, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _RefusedError("not a regular file")
    return os.fdopen(handle, "rb", buffering=0)


def _read(file: BinaryIO, limit: int, where: str) -> bytes:
    size = os.fstat(file.fileno()).st_size
    data = b"" if size > limit else file.read(limit + 1)
    while 0 < len(data) <= limit and (more := file.read(limit + 1 - len(data))):
        data += more
    if size > limit or len(data) > limit:
        raise UserError(
            f"{where}: {max(size, len(data)):,} bytes are more than the {limit:,} that such a file may have"
        )
    return data
