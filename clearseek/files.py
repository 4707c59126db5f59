"""Files that are whole or not there.

A process can be killed between any two instructions, and a disk can fill up in the middle of a write. So nothing here
is written in place: bytes go to a temporary sibling, are forced to the disk (fsync), and only then take the final name
with one rename, which POSIX makes atomic. A reader sees the old content or the new one.

A killed process leaves its temporary behind. Its name says what it is (``.NAME.<16 hex digits>.new``, or ``.old`` for
what a replacement moved aside), and a lock that the kernel drops with the process says whether its writer still lives,
so :func:`remove_leftovers` can tell rubbish from work in progress.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal

from clearseek.errors import UserError

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.(?P<kind>new|old)")


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file (text as UTF-8), replacing what was there, so that it is never seen half-written.

    Missing parent folders are created. Raises UserError when the disk is full or the place not writable; the old
    content is then untouched.
    """
    raw = data.encode("utf-8") if isinstance(data, str) else data
    with atomic_file(path, len(raw)) as file:
        file.write(raw)


@contextmanager
def atomic_file(path: Path, size: int | None = None) -> Iterator[BinaryIO]:
    """Write a file piece by piece; it takes the name `path`, replacing what was there, when the block ends well.

    Args:
        path: The file to make; missing parent folders are created.
        size: Bytes to write, where known, for the message about a full disk.

    Yields:
        The temporary file, open for writing.

    Raises:
        UserError: the disk is full or the place not writable; the old content is then untouched.
    """
    temporary = _temporary(path, "new")
    with writing(path, size):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                _lock(file.fileno())
                yield file
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _fsync(path.parent)


@contextmanager
def atomic_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Build a folder under a temporary name; it takes the name `path` when the block ends without an exception.

    Args:
        path: The folder to make; missing parents are created.
        replace: Whether an existing `path` may be replaced. It is moved aside first and deleted last: a kill in
            between is put right by :func:`remove_leftovers`.

    Yields:
        The temporary folder to fill.

    Raises:
        UserError: `path` exists and `replace` is false, the disk is full, or the place is not writable.
    """
    _refuse_existing(path, replace)
    temporary = _temporary(path, "new")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        handle = os.open(temporary, os.O_RDONLY)
        try:
            _lock(handle)
            yield temporary
            _fsync_tree(temporary)
            _refuse_existing(path, replace)
            old = _temporary(path, "old")
            if os.path.lexists(path):
                path.rename(old)
            try:
                temporary.rename(path)
            except BaseException:
                if os.path.lexists(old):
                    old.rename(path)
                raise
            _fsync(path.parent)
            shutil.rmtree(old, ignore_errors=True)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        finally:
            os.close(handle)


def remove_folder(path: Path) -> None:
    """Delete a folder; after a kill in the middle it is gone under its own name, never half there."""
    with writing(path):
        gone = _temporary(path, "new")
        path.rename(gone)
        shutil.rmtree(gone)


def remove_unfinished(path: Path) -> None:
    """Clear what killed processes left of attempts to write `path`, and of nothing else beside it."""
    for entry in path.parent.iterdir() if path.parent.is_dir() else ():
        match = _TEMPORARY.fullmatch(entry.name)
        if match and match["name"] == path.name and match["kind"] == "new" and not _in_use(entry):
            with writing(entry):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> list[Path]:
    """Clear what killed processes left in `folder` and below; call it when a program starts.

    A folder that was moved aside while being replaced gets its name back if the replacement never arrived.

    Returns:
        The temporaries removed or put back. Those of living processes are left alone.
    """
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        for name in sorted([*folders, *files]):
            match = _TEMPORARY.fullmatch(name)
            if match is None:
                continue
            temporary, final = Path(parent, name), Path(parent, match["name"])
            if name in folders:
                folders.remove(name)
            if _in_use(temporary):
                continue
            with writing(temporary):
                if match["kind"] == "old" and not os.path.lexists(final):
                    temporary.rename(final)
                elif temporary.is_dir():
                    shutil.rmtree(temporary)
                else:
                    temporary.unlink(missing_ok=True)
            found.append(temporary)
    return found


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of bytes, in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in lower-case hex, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def writing(path: Path, size: int | None = None) -> Iterator[None]:
    """Turn what a disk or a permission does to the write of `path` into a UserError that says how to go on.

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
        # A temporary is our affair: the name that was asked for says where.
        ours = error.filename is None or _TEMPORARY.fullmatch(Path(error.filename).name)
        raise UserError(f"{path if ours else error.filename}: cannot write: {cure}") from error


def _cure(error: OSError, path: Path, size: int | None) -> str | None:
    """What went wrong and what to do, or None where the error is not about the place written to."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            with suppress(OSError):
                free = shutil.disk_usage(path.parent).free
                need = f"{size:,} bytes are needed and {free:,} are free" if size else f"only {free:,} bytes are free"
                what = "the disk is full" if error.errno == errno.ENOSPC else "the disk quota is used up"
                return f"{what} ({need}): make room, or choose a folder on another disk"
            return "the disk is full: make room, or choose a folder on another disk"
        case errno.EACCES | errno.EPERM:
            return f"the folder {path.parent} is read-only for this user: change its permissions or choose another"
        case errno.EROFS:
            return "its file system is mounted read-only: choose a folder on another one"
        case errno.EFBIG:
            return "it would exceed the largest file allowed here: raise the limit (ulimit -f), or use another disk"
        case errno.ENOTDIR | errno.EEXIST | errno.EISDIR:
            return "a file stands where a folder is needed, or the reverse: remove it or choose another path"
        case errno.EIO:
            return "the disk reported an input/output error: check it, or choose another disk"
        case errno.ENAMETOOLONG:
            return "the name is too long for this file system: choose a shorter one"
    return None


def _temporary(path: Path, kind: Literal["new", "old"]) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.{kind}")


def _refuse_existing(path: Path, replace: bool) -> None:
    if not replace and os.path.lexists(path):
        raise UserError(f"{path}: already exists: remove it or choose another name")


def _lock(handle: int) -> None:
    """Mark an open file or folder as in use until this process ends. File systems without locks go without."""
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _in_use(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _fsync_tree(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        for name in files:
            _fsync(Path(parent, name))
        _fsync(Path(parent))
