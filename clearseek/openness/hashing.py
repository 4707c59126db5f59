"""SHA-256 of many files at once. One file is one chain of blocks, so files are spread over threads, largest first."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from clearseek.errors import UserError
from clearseek.openness.tree import File, open_file

_PIECE: Final = 1 << 20


def hash_file(root: Path, path: str, progress: Callable[[int], None] = lambda _: None) -> str:
    """SHA-256 of one file in hex; `progress` is told of bytes as they are read."""
    digest = hashlib.sha256()
    buffer = bytearray(_PIECE)
    view = memoryview(buffer)
    try:
        with open_file(root, path) as file:
            while count := file.readinto(buffer):  # type: ignore[attr-defined]
                digest.update(view[:count])  # releases the interpreter's lock
                progress(count)
    except OSError as error:
        raise UserError(f"{root / path}: cannot read: {error.strerror}") from None
    return digest.hexdigest()


def hash_files(
    root: Path, files: Iterable[File], progress: Callable[[int], None] = lambda _: None, threads: int | None = None
) -> dict[str, str]:
    """Path -> SHA-256 in hex. `progress` is called from several threads, one at a time.

    Raises UserError when a file cannot be read.
    """
    lock = threading.Lock()

    def tell(count: int) -> None:
        with lock:
            progress(count)

    largest_first = sorted(files, key=lambda file: -file.size)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(threads or usable) as pool:
        hashes = pool.map(lambda file: hash_file(root, file.path, tell), largest_first)
        return {file.path: digest for file, digest in zip(largest_first, hashes, strict=True)}
