"""SHA-256 of many files at once.

Hashing is where checking a release spends its time. One SHA-256 is a chain and cannot be split, so what runs in
parallel is files: Python's hashlib lets go of the interpreter lock while it computes, which makes plain threads enough,
and the largest files start first so that no thread is left alone with one at the end. The buffer is small enough to
stay in a core's cache between being read and being hashed. Memory mapping would save a copy, but a file cut off while
it is mapped kills the process.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event, Lock

from clearseek.cores import usable_cores
from clearseek.errors import UserError
from clearseek.files import reading
from clearseek.signing.tree import File, open_file, visible

BUFFER = 256 * 1024
Progress = Callable[[int, int], None]
"""Called with the bytes hashed so far and the bytes in all, one call at a time, from any thread."""


def hash_files(
    root: Path, files: Iterable[File], progress: Progress | None = None, threads: int | None = None
) -> dict[str, str]:
    """SHA-256 of files of a folder.

    Args:
        root: The folder.
        files: As :func:`clearseek.signing.tree.walk` found them.
        progress: Told about every few megabytes.
        threads: At most; as many as there are cores if left out.

    Returns:
        Path -> lower-case hex, in the order of `files`.

    Raises:
        UserError: a file cannot be read, or changed since the walk.
    """
    ordered = list(files)
    count = _Count(sum(file.size for file in ordered), progress)
    workers = max(1, min(threads or usable_cores(), len(ordered)))
    pool = ThreadPoolExecutor(workers, thread_name_prefix="hash")
    try:
        largest_first = sorted(ordered, key=lambda file: -file.size)
        jobs = {file.path: pool.submit(_hash, root, file, count) for file in largest_first}
        done, _ = wait(jobs.values(), return_when=FIRST_EXCEPTION)
        for job in done:
            job.result()
        return {file.path: jobs[file.path].result() for file in ordered}
    finally:
        count.stop.set()  # after an error or Ctrl-C, threads end at their next buffer instead of their file's end
        pool.shutdown(wait=True, cancel_futures=True)


def _hash(root: Path, file: File, count: _Count) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(BUFFER))
    where = f"{root}: {visible(file.path)}"
    with open_file(root, file.path) as stream:
        before = os.fstat(stream.fileno())
        total = fresh = 0
        with reading(where):
            while size := stream.readinto(buffer):  # type: ignore[attr-defined]
                digest.update(buffer[:size])
                total += size
                fresh += size
                if fresh >= 16 * BUFFER:
                    count.add(fresh)
                    fresh = 0
                if count.stop.is_set():
                    break
        count.add(fresh)
        after = os.fstat(stream.fileno())
    unchanged = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    if not count.stop.is_set() and (total != file.size or not unchanged):
        raise UserError(f"{where}: changed while it was read: start again when nothing writes to the folder")
    return digest.hexdigest()


class _Count:
    """What all threads have done together."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.stop = Event()
        self._total, self._progress = total, progress
        self._done = 0
        self._lock = Lock()

    def add(self, size: int) -> None:
        with self._lock:
            self._done += size
            if self._progress is not None and size:
                self._progress(self._done, self._total)
