"""Saving checkpoints while training goes on, by one process or by many.

The state is copied (staged), and that is all that training waits for, where memory has room for a copy: a thread of
each process writes its part into the folder that the main process has opened under a temporary name, hashes it and
forces it to the disk. Between steps the processes ask each other whether all have done so. Then the main process's
thread writes the record and gives the folder its name; only after that are older checkpoints deleted. So a kill of any
process, at any moment, leaves the old set or the new one, and a disk that is full for one process costs that checkpoint
alone.

A process that is alone has nobody to ask, and its thread does it all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import torch

from clearseek.errors import UserError
from clearseek.files import amount, atomic_folder, remove_leftovers, writing
from clearseek.machine import free_memory
from clearseek.train.checkpoints import checkpoint
from clearseek.train.checkpoints.files import Held, write_pieces, write_whole
from clearseek.train.checkpoints.record import File, Record, check_pieces, folder_name
from clearseek.train.parallel.group import ALONE, Group

_PATIENCE = 10.0
"""Seconds after which a folder made by one machine should be seen by the others."""
_Files = dict[str, File]


@dataclass(frozen=True)
class _Save:
    """A checkpoint in the making."""

    step: int
    path: Path
    """Its folder when it is whole."""
    temporary: Path
    """Its folder until then."""
    size: int
    """Bytes that this process writes."""
    state: dict[str, Any]


class Saver:
    """The checkpoints of a run in progress. All processes of the group make the same calls in the same order.

    Args:
        folder: The run's checkpoint folder; made where it is missing.
        keep: Checkpoints to keep.
        group: The processes.
    """

    def __init__(self, folder: Path, keep: int, group: Group = ALONE) -> None:
        assert keep >= 1
        self.folder, self.keep, self.group = folder, keep, group
        self._save: _Save | None = None
        self._job: Future[_Files | None] | None = None
        """What this process's thread does: it writes files, and then on the main process commits (None)."""
        self._open = ExitStack()
        """The main process's unfinished folder, which a normal end gives its name and an exception removes."""
        self._remarks: list[str] = []
        self._crowded = False

    def begin(self, step: int, held: Mapping[str, Held], state: dict[str, Any]) -> None:
        """Begin to save; the one before is finished first. When this returns, the tensors may change.

        What the checkpoint must not be ahead of (the transcript's lines) must be on the disk before.

        Args:
            step: Steps taken.
            held: Group -> the parts that this process holds; no element is held by two. A process alone holds whole
                tensors. All processes name the same groups.
            state: Of the main process: values that JSON can hold; NaN and infinity are not among them.

        Raises:
            UserError: on all processes: the checkpoint before could not be saved, or this one's folder not be made.
        """
        self.finish()
        size = sum(tensor.numel() * tensor.element_size() for parts in held.values() for _, tensor in parts)
        path, temporary = self.folder / folder_name(step), self.folder
        with self.group.together():
            if self.group.main:
                remove_leftovers(self.folder)
                temporary = self._open.enter_context(atomic_folder(path, replace=True, size=size))
        temporary = self.folder / self.group.share(temporary.name)
        self._save = _Save(step, path, temporary, size, state)
        here = self.group.hosts.count(self.group.hosts[self.group.rank])  # who copies at the same time
        if size * here > free_memory():  # no room for copies: training waits until it is written
            if not self._crowded:
                room = f"no room in memory for a copy of {amount(size * here)}"
                self._remarks.append(f"{room}: training waits while a checkpoint is written")
            self._crowded = True
            self._job = _now(partial(self._write, self._save, held))
        else:
            self._job = _in_background(partial(self._write, self._save, stage(held)))

    def poll(self) -> None:
        """Between two steps: go on where all processes are done; waits for nothing.

        Raises UserError on all processes where the checkpoint could not be saved. Older ones are untouched.
        """
        if self._job is not None and not self.group.largest(not self._job.done()):
            self._advance()

    def remarks(self) -> list[str]:
        """What people should know of how it is saved, each said once."""
        said, self._remarks = self._remarks, []
        return said

    def finish(self) -> None:
        """Wait until the checkpoint in the making is saved. Raises UserError as :meth:`poll`."""
        while self._job is not None:
            wait_for([self._job])
            self._advance()

    def close(self) -> None:
        """End, also after an error: alone, the checkpoint in the making is saved; with others, which may be gone, not.

        After :meth:`finish` there is nothing to do.
        """
        if self._job is not None:
            wait_for([self._job])
        self._job = None
        self._give_up()

    def _advance(self) -> None:
        """After this process's job: learn how all others fared, and commit if they wrote their files."""
        job, self._job = self._job, None
        assert job is not None and self._save is not None
        try:
            with self.group.together():
                files = job.result()
        except BaseException:
            self._give_up()
            raise
        if files is not None:
            reports = self.group.gather({name: file.entry() for name, file in files.items()})
            every = {name: File.of(name, entry, True) for report in reports for name, entry in report.items()}
            self._job = _in_background(partial(self._commit, self._save, every))

    def _write(self, save: _Save, staged: Mapping[str, Held]) -> _Files | None:
        """In the thread: write this process's files; alone, commit them."""
        files: _Files = {}
        with writing(save.path, save.size):
            _wait_for_folder(save.temporary)
            for name, held in staged.items():
                if self.group.size == 1:
                    files |= write_whole(save.temporary, name, held)
                else:
                    files |= write_pieces(save.temporary, name, self.group.rank, self.group.size, held)
        return files if self.group.size > 1 else self._commit(save, files)

    def _commit(self, save: _Save, files: _Files) -> _Files | None:
        """In the main process's thread: the record, the name, then the older ones; nothing on the others."""
        if self.group.main:
            if self.group.size > 1:
                check_pieces(save.path, files)
            Record(save.step, files, save.state).write(save.temporary)
            self._open.close()
            checkpoint.prune(self.folder, save.step, self.keep)
        return None

    def _give_up(self) -> None:
        """Remove an unfinished folder."""
        with suppress(_GivenUpError), self._open:
            raise _GivenUpError


class _GivenUpError(Exception):
    """A checkpoint will not be finished."""


def _wait_for_folder(folder: Path) -> None:
    """A folder that another machine has just made may be seen late (NFS), or never where the disk is not shared."""
    until = time.monotonic() + _PATIENCE
    while not folder.is_dir():
        if time.monotonic() > until:
            raise UserError(
                f"{folder.parent}: the folder that the main process makes there is not seen here: the run folder must "
                "lie on a disk that all machines share"
            )
        time.sleep(0.05)


def _now(work: Callable[[], _Files | None]) -> Future[_Files | None]:
    """Run, and keep what came of it."""
    future: Future[_Files | None] = Future()
    _run(work, future)
    return future


def _in_background(work: Callable[[], _Files | None]) -> Future[_Files | None]:
    """Run in a thread that does not keep the process alive."""
    future: Future[_Files | None] = Future()
    Thread(target=_run, args=(work, future), name="checkpoint", daemon=True).start()
    return future


def _run(work: Callable[[], _Files | None], future: Future[_Files | None]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)


def stage(held: Mapping[str, Held]) -> dict[str, Held]:
    """A copy of the tensors in this machine's memory, pinned where a GPU writes it."""
    staged: dict[str, Held] = {
        name: [
            (part, torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda).copy_(tensor, True))
            for part, tensor in parts
        ]
        for name, parts in held.items()
    }
    if any(tensor.is_cuda for parts in held.values() for _, tensor in parts):
        torch.cuda.synchronize()
    return staged
