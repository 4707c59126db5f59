"""The transcript: what a run did, step by step, so that anyone can do it again and compare bits.

A JSON-lines file. The first line is the header: recipe, data fingerprint, and whatever else decides the bits (PyTorch
build, threads, instruction set, precision, world size). Then comes one line per step with losses and norms as
hexadecimal floats, which are exact, and now and then the SHA-256 of all weights and optimiser state. Every line carries
the hash of the line before, as in a ledger (Haber and Stornetta, "How to time-stamp a digital document", 1991): a line
changed, dropped or moved is found at that line. No clock is in it, so two identical runs write identical files.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearseek.errors import UserError
from clearseek.files import append, sha256_bytes, writing
from clearseek.locks import lock
from clearseek.train.header import differences

if TYPE_CHECKING:
    import torch

FORMAT = "clearseek-transcript-1"


@dataclass(frozen=True, slots=True)
class Step:
    """One line: what a step did."""

    step: int
    """Its number, from 1."""
    loss: float
    """Next-token loss, nats per token."""
    mtp_loss: float | None
    """Multi-token-prediction loss, nats per token, where the model has such a module."""
    grad_norm: float
    """Global gradient norm before clipping."""
    tokens: int
    """Tokens trained on since the run began, this step's included."""
    balance: tuple[float, ...] = ()
    """Load of the busiest expert over the mean load, for each layer with experts."""
    held_out_bpb: float | None = None
    """Bits per byte of held-out text, in the steps that evaluate."""
    weights_sha256: str | None = None
    """Hash of all weights after the step (`hash_tensors`), in the steps that take it."""
    optimizer_sha256: str | None = None
    """Hash of the optimiser's state after the step."""


@dataclass(frozen=True)
class Summary:
    """What a verified transcript holds."""

    header: dict[str, Any]
    steps: tuple[Step, ...]
    head: str
    """SHA-256 of the last line: it stands for the whole transcript."""
    torn: bool
    """Whether an unfinished last line, as a kill leaves, was ignored."""
    begin: int = 0
    """The step that the run began after: 0, or the last of the run that it goes on from."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line that was read, the chain followed to it."""

    step: int
    """Of the record; in the header, the step that the run began after: 0, or its parent's last."""
    record: Step | None
    """None in the header."""
    header: dict[str, Any]
    head: str
    """SHA-256 of the line."""
    end: int
    """Bytes from the beginning of the file to the end of the line."""


class Transcript:
    """The transcript of a run in progress; `open` or `resume` makes one. A second process that tries to is refused."""

    def __init__(self, path: Path, file: FileIO, step: int, head: str) -> None:
        self.step = step
        """Number of the last step written."""
        self.head = head
        """SHA-256 of the last line. A checkpoint that stores it proves later that it belongs to this transcript."""
        self._path = path
        self._file = file

    @classmethod
    def open(cls, path: Path, header: dict[str, Any]) -> Transcript:
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
        cls, path: Path, header: dict[str, Any], step: int, head: str | None = None, pending: Step | None = None
    ) -> Transcript:
        """Go on after `step`; later lines are cut off, for the run will write them again.

        Args:
            path: The transcript; an unfinished last line is tolerated.
            header: As for `open`, computed afresh.
            step: Step of the checkpoint that the run goes on from; for the very beginning 0, or the parent's last.
            head: `Transcript.head` as that checkpoint recorded it.
            pending: The step after `step`, whose line only waited for the final evaluation. If the line is there, it
                is kept.

        Raises:
            UserError: this run's header differs from the recorded one (the message names every key that does), a line
                was altered, the transcript ends before `step`, or another process is writing it.
        """
        try:
            file = FileIO(path, "r+")
        except OSError as error:
            raise _unreadable(path, error) from None
        try:
            _lock(file, path)
            at, lines = None, read_lines(path)
            for at in lines:
                if at.record is None:
                    _refuse_other(path, at.header, header)
                if at.step >= step:
                    break
            if at is None and step == _begin(path, header):
                return cls._start(path, file, header)
            if at is None or at.step != step:
                raise UserError(
                    f"{path}: it ends at step {at.step if at else 0}, but the checkpoint is of step {step}: go back to "
                    "an older checkpoint with --from-step, or restore the file from a copy"
                )
            if head is not None and head != at.head:
                number = step - _begin(path, header) + 1
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
    def _start(cls, path: Path, file: FileIO, header: dict[str, Any]) -> Transcript:
        line = _line({"format": FORMAT, **header})
        with writing(path):
            _lock(file, path)
            file.seek(0)
            file.truncate()
            append(file, line + b"\n")
            os.fsync(file.fileno())
        return cls(path, file, _begin(path, header), sha256_bytes(line))

    def append(self, record: Step) -> None:
        """Write the next step's line. It survives a kill of the process at once, and a power cut after `sync`."""
        assert record.step == self.step + 1, f"step {record.step} after step {self.step}"
        line = _line({**encode(record), "prev": self.head})
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


def read_lines(path: Path) -> Iterator[Line]:
    """Read a transcript line by line and follow its chain of hashes; an unfinished last line is left out.

    Raises:
        UserError: the file is missing, or a line breaks the chain; the message names it.
    """
    try:
        with path.open("rb") as file:
            line: Line | None = None
            for number, raw in enumerate(file, start=1):
                if not raw.endswith(b"\n"):
                    return
                line = _next(path, number, raw[:-1], line)
                yield line
    except OSError as error:
        raise _unreadable(path, error) from None


def read_header(path: Path) -> dict[str, Any]:
    """What the first line says, without the other lines; empty where a kill left none. Raises UserError as `verify`."""
    first = next(read_lines(path), None)
    return {} if first is None else first.header


def last_line(path: Path) -> Line:
    """The last whole line, the chain followed to it. Raises UserError as `verify` does."""
    last = deque(read_lines(path), maxlen=1)
    if not last:
        raise UserError(f"{path}: empty: not a transcript")
    return last[0]


def verify(path: Path) -> Summary:
    """Read a transcript and check its chain of hashes.

    The chain cannot show a change to the last line alone: compare `Summary.head` with one kept elsewhere for that.

    Raises:
        UserError: the file is missing or a line breaks the chain; the message names the first one.
    """
    steps: list[Step] = []
    line = None
    for line in read_lines(path):
        if line.record is not None:
            steps.append(line.record)
    if line is None:
        raise UserError(f"{path}: empty: not a transcript")
    return Summary(
        line.header, tuple(steps), line.head, torn=path.stat().st_size > line.end, begin=_begin(path, line.header)
    )


def hash_tensors(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """SHA-256 over named tensors that depends on their names and contents alone, not on order, layout or device.

    In the order of names, each gives a JSON line ``[name, dtype, shape]`` and then its elements' little-endian bytes.
    Works for every dtype, BF16 and FP8 included; tensors are hashed where they lie, CPU ones without a copy.
    """
    import torch

    assert sys.byteorder == "little"
    digest = hashlib.sha256()
    previous: str | None = None
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        assert name != previous, f"two tensors are called {name}"
        previous = name
        described = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        digest.update(json.dumps(described, separators=(",", ":")).encode() + b"\n")
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def encode(record: Step) -> dict[str, Any]:
    """A step's line without its `prev`: floats in hexadecimal, absent values left out."""
    return {name: _hex(value) for name, value in asdict(record).items() if value is not None}


def _hex(value: Any) -> Any:
    if isinstance(value, float):
        return value.hex()
    return [_hex(item) for item in value] if isinstance(value, tuple) else value


def decode(entry: dict[str, Any]) -> Step:
    """The reverse of `encode`. Raises KeyError, TypeError, ValueError or OverflowError on anything else."""
    for key, kind in (("step", int), ("tokens", int), ("balance", list)):
        if type(entry[key]) is not kind:
            raise TypeError(key)
    optional = {key: float.fromhex(entry[key]) for key in ("mtp_loss", "held_out_bpb") if key in entry}
    return Step(
        step=entry["step"],
        loss=float.fromhex(entry["loss"]),
        mtp_loss=optional.get("mtp_loss"),
        grad_norm=float.fromhex(entry["grad_norm"]),
        tokens=entry["tokens"],
        balance=tuple(float.fromhex(value) for value in entry["balance"]),
        held_out_bpb=optional.get("held_out_bpb"),
        weights_sha256=entry.get("weights_sha256"),
        optimizer_sha256=entry.get("optimizer_sha256"),
    )


def _next(path: Path, number: int, raw: bytes, before: Line | None) -> Line:
    """Parse the line that comes after `before`, which is None ahead of the header."""
    entry = _parse(path, number, raw)
    head, size = sha256_bytes(raw), len(raw) + 1
    if before is None:
        if entry.pop("format", None) != FORMAT:
            raise UserError(f'{path}, line 1: not the header of a transcript: "format" is not "{FORMAT}"')
        return Line(_begin(path, entry), None, entry, head, size)
    if entry.get("prev") != before.head:
        raise UserError(
            f"{path}, line {number}: its hash of line {number - 1} is wrong: one of the two was altered, or lines "
            "between them were removed"
        )
    try:
        step = decode(entry)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"{path}, line {number}: altered: not the record of a step") from None
    if step.step != before.step + 1:
        raise UserError(f"{path}, line {number}: it is of step {step.step} where step {before.step + 1} belongs")
    return Line(step.step, step, before.header, head, before.end + size)


def _begin(path: Path, header: dict[str, Any]) -> int:
    """The step after which a run began: 0, or the last of the run that it goes on from."""
    parent = header.get("parent", {"step": 0})
    step = parent.get("step") if isinstance(parent, dict) else None
    if type(step) is not int or step < 0:
        raise UserError(f"{path}, line 1: altered: it does not say after which step the run began")
    return step


def _completed(lines: Iterator[Line], pending: Step) -> Line | None:
    """The next line, if it is the pending one with its evaluation."""
    try:
        line = next(lines, None)
    except UserError:
        return None
    if line is None or line.record is None or line.record.held_out_bpb is None:
        return None
    return line if replace(line.record, held_out_bpb=None) == pending else None


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict):
        raise UserError(f"{path}, line {number}: altered: not a JSON object")
    return entry


def _refuse_other(path: Path, recorded: dict[str, Any], now: dict[str, Any]) -> None:
    changes = differences(recorded, json.loads(_line(now)))
    if changes:
        raise UserError(
            f"{path}: this run would not have the bits of the recorded one. What differs, recorded -> now:\n  "
            + "\n  ".join(changes)
            + "\nSet these back, or start a new run in another folder"
        )


def _line(entry: dict[str, Any]) -> bytes:
    """One canonical JSON line, without the newline."""
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot read the transcript: {error.strerror}")


def _lock(file: FileIO, path: Path) -> None:
    """Take the file for this process until it ends. Where there are no locks, the run folder's lock has to do."""
    if lock(file.fileno()) is False:
        raise UserError(f"{path}: another process is writing this run: wait for it, or stop it first")
