"""Writing the transcript of a run in progress; :mod:`clearseek.train.transcript` reads it and says what it is.

A line is one write, so that a kill leaves at most its last line torn; a checkpoint is saved only after the lines before
it are on the disk. A resumed run cuts off what it will write again, and one whose header differs is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any

import clearseek
from clearseek.errors import OtherVersionError, UserError
from clearseek.files import append, reading, sha256_bytes, writing
from clearseek.locks import lock
from clearseek.train.header import differences
from clearseek.train.record import StepRecord, encode
from clearseek.train.transcript import FORMAT, Line, begin, canonical, read_lines


class TranscriptWriter:
    """The transcript of a run in progress; `open` or `resume` makes one. A second process that tries to is refused."""

    def __init__(self, path: Path, file: FileIO, step: int, head: str) -> None:
        self.step = step
        """Number of the last step written."""
        self.head = head
        """SHA-256 of the last line. A checkpoint that stores it proves later that it belongs to this transcript."""
        self._path = path
        self._file = file

    @classmethod
    def open(cls, path: Path, header: dict[str, Any]) -> TranscriptWriter:
        """Start the transcript of a new run. `header` is any JSON object.

        Raises UserError when the file exists (a run is never written over) or cannot be written.
        """
        try:
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                file = FileIO(path, "x+")
        except UserError:
            if path.exists():
                message = "a run is already recorded here: resume it, or choose another run folder"
                raise UserError(f"{path}: {message}") from None
            raise
        return cls._start(path, file, header)

    @classmethod
    def resume(
        cls, path: Path, header: dict[str, Any], step: int, head: str | None = None, pending: StepRecord | None = None
    ) -> TranscriptWriter:
        """Go on after `step`; later lines are cut off, for the run will write them again.

        Args:
            path: The transcript; an unfinished last line is tolerated.
            header: As for `open`, computed afresh.
            step: Step of the checkpoint that the run goes on from; for the very beginning 0, or the parent's last.
            head: `TranscriptWriter.head` as that checkpoint recorded it.
            pending: The step after `step`, whose line only waited for the final evaluation. If the line is there, it
                is kept.

        Raises:
            UserError: this run's header differs from the recorded one (the message names every key that does), a line
                was altered, the transcript ends before `step`, or another process is writing it.
        """
        with reading(path):
            file = FileIO(path, "r+")
        try:
            _lock(file, path)
            refuse_format_1(path)
            at, lines = None, read_lines(path)
            for at in lines:
                if at.record is None:
                    _refuse_other(path, at, header)
                if at.step >= step:
                    break
            if at is None and step == begin(path, header):
                return cls._start(path, file, header)
            if at is None or at.step != step:
                raise UserError(
                    f"{path}: it ends at step {at.step if at else 0}, but the checkpoint is of step {step}: go back to "
                    "an older checkpoint with --from-step, or restore the file from a copy"
                )
            if head is not None and head != at.head:
                number = step - begin(path, header) + 1
                raise UserError(f"{path}, line {number}: not the line that the checkpoint of step {step} was made with")
            if pending is not None:
                at = _completed(lines, pending) or at
            with writing(path):
                # One system call: a kill leaves the file long or short, and either way a whole number of lines.
                file.truncate(at.end)
                file.seek(0, os.SEEK_END)
                os.fsync(file.fileno())
        except BaseException:
            file.close()
            raise
        return cls(path, file, at.step, at.head)

    @classmethod
    def _start(cls, path: Path, file: FileIO, header: dict[str, Any]) -> TranscriptWriter:
        line = canonical({"format": FORMAT, **header})
        with writing(path):
            _lock(file, path)
            file.seek(0)
            file.truncate()
            append(file, line + b"\n")
            os.fsync(file.fileno())
        return cls(path, file, begin(path, header), sha256_bytes(line))

    def append(self, record: StepRecord) -> None:
        """Write the next step's line. It survives a kill of the process at once, and a power cut after `sync`."""
        assert record.step == self.step + 1, f"step {record.step} after step {self.step}"
        line = canonical({**encode(record), "prev": self.head})
        with writing(self._path, len(line) + 1):
            append(self._file, line + b"\n")
        self.step, self.head = record.step, sha256_bytes(line)

    def sync(self) -> None:
        """Force the lines to the disk. Call it before saving a checkpoint, so that none is ahead of its transcript."""
        with writing(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Force the lines to the disk and let the file go."""
        try:
            self.sync()
        finally:
            self._file.close()


def _completed(lines: Iterator[Line], pending: StepRecord) -> Line | None:
    """The next line, if it is the pending one with its evaluation."""
    try:
        line = next(lines, None)
    except UserError:
        return None
    if line is None or line.record is None:
        return None
    measured = {name: value for name, value in line.record.scalars.items() if name in pending.scalars}
    return line if replace(line.record, scalars=measured) == pending else None


def refuse_format_1(path: Path) -> None:
    """Raise OtherVersionError where ClearSeek 0.1 began the run of this transcript."""
    first = next(read_lines(path), None)
    if first is not None and first.version != 2:
        raise OtherVersionError(
            f"{path}: format {first.version}: ClearSeek 0.1 began this run, and {clearseek.__version__} gives other "
            "bits: finish it with that version, or start a new run"
        )


def _refuse_other(path: Path, recorded: Line, now: dict[str, Any]) -> None:
    if changes := differences(recorded.header, json.loads(canonical(now))):
        code = any("code_sha256" in change for change in changes)
        hint = " (code_sha256: use the ClearSeek that began the run)" if code else ""
        raise UserError(
            f"{path}: this run would not have the bits of the recorded one. What differs, recorded -> now:\n  "
            + "\n  ".join(changes)
            + f"\nSet these back{hint}, or start a new run elsewhere"
        )


def _lock(file: FileIO, path: Path) -> None:
    """Take the file for this process until it ends. Where there are no locks, the run folder's lock has to do."""
    if lock(file.fileno()) is False:
        raise UserError(f"{path}: another process is writing this run: wait for it, or stop it first")
