"""Atomic writes: a file or folder is whole under its name, or absent.

A process can be killed between any two instructions, and a disk can fill up in the middle of a write. So nothing is
written in place: bytes go to a temporary sibling, are forced to the disk (fsync), and only then take the final name
with one rename, which POSIX makes atomic. A reader sees the old content or the new one.

A killed process leaves its temporary behind. The temporary's name gives its kind (``.NAME.<16 hex digits>.new``,
``.old`` for what a replacement moved aside, ``.lock`` for the lock file of a folder) and its maker, and a lock that the
kernel drops with the process tells whether the writer lives (:mod:`clearseek.locks`). So :func:`remove_leftovers` can
tell rubbish from work in progress.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import BinaryIO, Literal

from clearseek import locks
from clearseek.errors import UserError

_TEMPORARY = re.compile(rf"\.(?P<name>.+)\.(?P<token>{locks.TOKEN})\.(?P<kind>new|old|lock)")
_Kind = Literal["new", "old", "lock"]
_NO_FSYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.ENOSYS)
"""Errors of file systems that cannot force a folder to the disk: SMB, FUSE, shared folders of virtual machines."""


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file (text as UTF-8) at once, replacing an old one; see :func:`atomic_file`."""
    raw = data.encode("utf-8") if isinstance(data, str) else data
    with atomic_file(path, len(raw)) as file:
        file.write(raw)


@contextmanager
def atomic_file(path: Path, size: int | None = None) -> Iterator[BinaryIO]:
    """Write a file piece by piece; it takes the name `path`, replacing an old file, when the block ends well.

    Args:
        path: The file to make; missing parent folders are created.
        size: Bytes to write, where known, for the message about a full disk.

    Yields:
        The temporary file, open for writing.

    Raises:
        UserError: the disk is full or the place not writable; the old content is then untouched.
    """
    temporary = _temporary(path, locks.token(), "new")
    with writing(path, size):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                locks.lock(file.fileno())
                yield file
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _fsync_folder(path.parent)


@contextmanager
def atomic_folder(path: Path, replace: bool = False, size: int | None = None) -> Iterator[Path]:
    """Build a folder under a temporary name; it takes the name `path` when the block ends without an exception.

    Args:
        path: The folder to make; missing parents are created.
        replace: Whether an existing `path` may be replaced. It is moved aside first and deleted last: a kill in
            between is put right by :func:`remove_leftovers`.
        size: Bytes to write, where known, for the message about a full disk.

    Yields:
        The temporary folder to fill.

    Raises:
        UserError: `path` exists and `replace` is false, the disk is full, or the place is not writable.
    """
    _refuse_existing(path, replace)
    with writing(path, size):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _reserved(path) as (temporary, old):
            try:
                temporary.mkdir()
                yield temporary
                _fsync_tree(temporary)
                _refuse_existing(path, replace)
                if os.path.lexists(path):
                    path.rename(old)
                try:
                    temporary.rename(path)
                except BaseException:
                    if os.path.lexists(old):
                        old.rename(path)
                    raise
                _fsync_folder(path.parent)
                shutil.rmtree(old, ignore_errors=True)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise


def remove_folder(path: Path) -> None:
    """Delete a folder; after a kill in the middle it is gone under its own name, never half there."""
    with writing(path), _reserved(path) as (gone, _):
        path.rename(gone)
        shutil.rmtree(gone)


def remove_unfinished(path: Path) -> None:
    """Clear what killed processes left of attempts to write `path`, and nothing else beside it."""
    for group in _groups(path.parent):
        if group.name == path.name and not group.path("old").exists():
            group.clear()


def remove_leftovers(folder: Path, left: Callable[[Path], None] = lambda _: None) -> list[Path]:
    """Clear what killed processes left in `folder` and below; call it when a program starts.

    A folder that was moved aside while being replaced gets its name back if the replacement never arrived.

    Args:
        folder: Where to look.
        left: Called with each temporary whose writer may be alive, as far as this file system can say.

    Returns:
        The temporaries removed or put back. Those of living processes are left alone.
    """
    found: list[Path] = []
    for parent, folders, _ in os.walk(folder):
        folders[:] = [name for name in folders if not _TEMPORARY.fullmatch(name)]
        for group in _groups(Path(parent)):
            cleared, unknown = group.clear()
            found += cleared
            for path in unknown:
                left(path)
    return found


@dataclass(frozen=True)
class _Group:
    """The temporaries of one attempt to write a name."""

    folder: Path
    name: str
    token: str

    def path(self, kind: _Kind) -> Path:
        """Path of the temporary of a kind, present or not."""
        return _temporary(self.folder / self.name, self.token, kind)

    def clear(self) -> tuple[list[Path], list[Path]]:
        """Remove or put back, unless the writer lives; paths that were cleared, and paths whose writer is unknown."""
        final = self.folder / self.name
        with writing(final), self._held() as ours:
            there = [path for path in (self.path("new"), self.path("old")) if os.path.lexists(path)]
            if not ours:
                return [], there if ours is None else []
            for path in there:
                if path == self.path("old") and not os.path.lexists(final):
                    path.rename(final)
                elif path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            return there, []

    @contextmanager
    def _held(self) -> Iterator[bool | None]:
        """Hold the writer's lock; whether the lock was free, None where that cannot be known."""
        with ExitStack() as stack:
            ours: bool | None = True  # a folder's writer makes its lock first and removes it last
            try:
                if self.path("lock").exists():
                    ours = stack.enter_context(locks.claim(self.path("lock")))
                elif self.path("new").is_file():
                    file = stack.enter_context(self.path("new").open("r+b"))  # NFS locks only what is open for writing
                    ours = locks.lock(file.fileno())
                    if ours is None and locks.lives(self.token) is False:
                        ours = True
            except FileNotFoundError:
                ours = False
            except OSError:
                ours = None
            yield ours


def _groups(folder: Path) -> list[_Group]:
    """Groups of the temporaries in a folder."""
    try:
        names = [match for entry in folder.iterdir() if (match := _TEMPORARY.fullmatch(entry.name))]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [_Group(folder, name, token) for name, token in sorted({(each["name"], each["token"]) for each in names})]


def append(file: RawIOBase, data: bytes) -> None:
    """Write all of `data` to an unbuffered file: after an error nothing is left in memory to be written later."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) or 0 :]


def amount(count: float) -> str:
    """Bytes in the unit that fits: ``17 bytes``, ``1.5 MiB``."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1024**power:
            return f"{count / 1024**power:,.1f} {unit}"
    return f"{count:,.0f} bytes"


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of bytes, in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in lower-case hex, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def writing(path: Path, size: int | None = None) -> Iterator[None]:
    """Turn an error of the disk or of permissions at `path` into a UserError that says how to go on.

    Args:
        path: What is being written; named in the message unless the error names a file itself.
        size: Bytes to write, where known.
    """
    try:
        yield
    except OSError as error:
        cure = _cure(error, path, size)
        if cure is None:
            raise
        # A temporary means nothing to the user: the message names the file that was asked for.
        ours = error.filename is None or _TEMPORARY.fullmatch(Path(error.filename).name)
        raise UserError(f"{path if ours else error.filename}: cannot write: {cure}") from error


@contextmanager
def reading(path: Path | str, cure: str = "") -> Iterator[None]:
    """Turn an error of the file system at `path` into a UserError, which says the cure where one is given."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}{f'; {cure}' * bool(cure)}") from None


def _cure(error: OSError, path: Path, size: int | None) -> str | None:
    """Fault and cure, or None where the error is not about the place written to."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        room = ""
        with suppress(OSError):
            free = shutil.disk_usage(path.parent).free
            need = f"{size:,} bytes are needed and {free:,} are free" if size else f"only {free:,} bytes are free"
            room = f" ({need})"
        what = "the disk is full" if error.errno == errno.ENOSPC else "the disk quota is used up"
        return f"{what}{room}: make room, or choose a folder on another disk"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"the folder {path.parent} is read-only for this user: change its permissions or choose another"
    return _CURES.get(error.errno or 0)


_BLOCKED = "a file stands where a folder is needed, or the reverse: remove it or choose another path"
_CURES = {
    errno.EROFS: "its file system is mounted read-only: choose a folder on another one",
    errno.EFBIG: "it would exceed the largest file allowed here: raise the limit (ulimit -f), or use another disk",
    errno.ENOTDIR: _BLOCKED,
    errno.EEXIST: _BLOCKED,
    errno.EISDIR: _BLOCKED,
    errno.EIO: "the disk reported an input/output error: check it, or choose another disk",
    errno.ENAMETOOLONG: "the name is too long for this file system: choose a shorter one",
}


def _temporary(path: Path, token: str, kind: _Kind) -> Path:
    return path.with_name(f".{path.name}.{token}.{kind}")


@contextmanager
def _reserved(path: Path) -> Iterator[tuple[Path, Path]]:
    """Temporary names beside `path` for a new folder and for one moved aside, under one lock."""
    while True:
        token = locks.token()
        with locks.claim(_temporary(path, token, "lock")) as ours:
            if ours:  # else a process that clears leftovers took the lock file first: draw another name
                yield _temporary(path, token, "new"), _temporary(path, token, "old")
                return


def _refuse_existing(path: Path, replace: bool) -> None:
    if not replace and os.path.lexists(path):
        raise UserError(f"{path}: already exists: remove it or choose another name")


def _fsync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise
    finally:
        os.close(handle)


def _fsync_tree(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        for name in files:
            with Path(parent, name).open("rb") as file:
                os.fsync(file.fileno())
        _fsync_folder(Path(parent))
