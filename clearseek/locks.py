"""Locks on files: held, free, or unknown where the file system cannot say.

The kernel drops a ``flock`` with its process. On NFS ``flock`` needs a handle that is open for writing; Lustre and some
FUSE file systems have no locks. There the token in a name decides: its sixteen hex digits say on which system (machine,
boot, process namespace) and in which process the name was made, so that a process that ended here is known to have
ended. A file made elsewhere that cannot be locked is *unknown*, and unknown means in use: a folder left over costs
room, a folder taken from a living writer is lost.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from clearseek.errors import UserError

TOKEN = "[0-9a-f]{16}"
"""Pattern of :func:`token`."""


def token() -> str:
    """Sixteen hex digits: five for this system, six for this process, five random ones."""
    return f"{_system()}{os.getpid() & 0xFFFFFF:06x}{secrets.randbits(20):05x}"


def lives(made: str) -> bool | None:
    """Whether the process that made a token still runs; None where the token is another system's."""
    if not re.fullmatch(TOKEN, made) or made[:5] != _system():
        return None
    try:
        os.kill(int(made[5:11], 16), 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return True


def lock(handle: int) -> bool | None:
    """Lock an open file until its handle closes; False where another handle holds it, None where locks do not work."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextmanager
def claim(file: Path) -> Iterator[bool | None]:
    """Hold a lock file, made for this block and removed at its end.

    Yields:
        True: it is ours. False: another process holds it. None: another system made it, and this file system cannot say
        whether the holder lives. Only in the first case may anything be done on the strength of it.
    """
    while True:
        handle, ours = _take(file)
        if not ours or _same(handle, file):
            break
        os.close(handle)  # its holder removed it between our opening and our locking
    try:
        yield ours
    finally:
        if ours:
            with suppress(OSError):
                file.unlink(missing_ok=True)
        os.close(handle)


@contextmanager
def exclusive(file: Path, what: str) -> Iterator[None]:
    """Run the block while no other process does. Raises UserError, which names `what`, where another does or may."""
    with claim(file) as ours:
        if ours is False:
            raise UserError(f"{what}: another process is writing here: wait for it, or stop it first")
        if ours is None:
            raise UserError(
                f"{what}: another process was writing here, and this file system has no locks to say whether it still "
                f"does: if it has ended, delete {file}"
            )
        yield


def _take(file: Path) -> tuple[int, bool | None]:
    """Open a lock file, made where missing, and try to become its holder."""
    try:
        handle, made = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
    except FileExistsError:
        handle, made = os.open(file, os.O_RDWR | os.O_CREAT, 0o666), False
    try:
        ours = lock(handle)
        if ours is None:  # no locks here: who made the file, and does that process live?
            holder = lives(os.pread(handle, 64, 0).decode("ascii", errors="replace"))
            ours = True if made else None if holder is None else not holder
        if ours:
            os.pwrite(handle, token().encode(), 0)
    except BaseException:
        os.close(handle)
        raise
    return handle, ours


def _same(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


@cache
def _system() -> str:
    """Five hex digits of machine, boot and process namespace, within which process numbers are unique."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256(" ".join(parts).encode("utf-8", errors="replace")).hexdigest()[:5]
