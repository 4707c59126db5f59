"""The transcript: what a run did, step by step, so that anyone can do it again and compare bits.

A JSON-lines file. The first line is the header: recipe, task, data fingerprint, and whatever else decides the bits
(PyTorch build, threads, instruction set, precision). Then comes one line per step (:mod:`clearseek.train.record`) with
what the task measured and now and then the SHA-256 of all weights and optimiser state. Every line carries the hash of
the line before, as in a ledger (Haber and Stornetta, "How to time-stamp a digital document", 1991): a line changed,
dropped or moved is found at that line. No clock is in it, so two identical runs write identical files.

Format 1, of ClearSeek 0.1, is read and checked as well; its runs cannot go on here, for this version gives other bits.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import clearseek
from clearseek.errors import OtherVersionError, UserError
from clearseek.files import reading, sha256_bytes
from clearseek.train.record import StepRecord, decode, encode

if TYPE_CHECKING:
    import torch

FORMAT = "clearseek-transcript-2"


@dataclass(frozen=True)
class RunRecord:
    """What a checked transcript holds."""

    header: dict[str, Any]
    steps: tuple[StepRecord, ...]
    head: str
    """SHA-256 of the last line, which depends on the whole transcript."""
    torn: bool
    """Whether an unfinished last line, as a kill leaves, was ignored."""
    begin: int = 0
    """The step that the run began after: 0, or the last of the run that it goes on from."""
    version: int = 2
    """Format of the transcript: 1 or 2."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line that was read, the chain followed to it."""

    step: int
    """Step of the record; in the header, the step that the run began after: 0, or its parent's last."""
    record: StepRecord | None
    """None in the header."""
    header: dict[str, Any]
    head: str
    """SHA-256 of the line."""
    end: int
    """Bytes from the beginning of the file to the end of the line."""
    version: int = 2
    """Format of the transcript."""


def read_lines(path: Path) -> Iterator[Line]:
    """Read a transcript line by line and follow its chain of hashes; an unfinished last line is left out.

    Raises:
        UserError: the file is missing, or a line breaks the chain; the message names it.
    """
    line: Line | None = None
    with reading(path), path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.endswith(b"\n"):
                return
            line = _next(path, number, raw[:-1], line)
            yield line


def read_header(path: Path) -> dict[str, Any]:
    """What the first line says, without the other lines; empty where a kill left none."""
    first = next(read_lines(path), None)
    return {} if first is None else first.header


def last_line(path: Path) -> Line:
    """Last whole line, the chain followed to it. Raises UserError where it is broken, or there is no line."""
    last = deque(read_lines(path), maxlen=1)
    if not last:
        raise UserError(f"{path}: empty: not a transcript")
    return last[0]


def check_transcript(path: Path) -> RunRecord:
    """Read a transcript and check its chain of hashes.

    The chain cannot show a change to the last line alone: compare `RunRecord.head` with one kept elsewhere for that.

    Raises:
        UserError: the file is missing or a line breaks the chain; the message names the first one.
    """
    steps: list[StepRecord] = []
    line = None
    for line in read_lines(path):
        if line.record is not None:
            steps.append(line.record)
    if line is None:
        raise UserError(f"{path}: empty: not a transcript")
    torn = path.stat().st_size > line.end
    return RunRecord(line.header, tuple(steps), line.head, torn, begin(path, line.header), line.version)


def hasher(version: int) -> Callable[[Iterable[tuple[str, torch.Tensor]]], str]:
    """How transcripts of a format take hashes of tensors."""
    from clearseek.train.chunks import flat_hash, hash_tensors

    return flat_hash if version == 1 else hash_tensors


def _next(path: Path, number: int, raw: bytes, before: Line | None) -> Line:
    """Parse the line that comes after `before`, which is None ahead of the header."""
    entry = _parse(path, number, raw)
    head, size = sha256_bytes(raw), len(raw) + 1
    if before is None:
        version = _version(path, entry.pop("format", None))
        return Line(begin(path, entry), None, entry, head, size, version)
    if entry.get("prev") != before.head:
        raise UserError(
            f"{path}, line {number}: its hash of line {number - 1} is wrong: one of the two was altered, or lines "
            "between them were removed"
        )
    try:
        step = decode(entry, before.version)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"{path}, line {number}: altered: not the record of a step") from None
    if before.version == 2 and canonical({**encode(step), "prev": before.head}) != raw:
        raise UserError(f"{path}, line {number}: altered: not written as such lines are")
    if step.step != before.step + 1:
        raise UserError(f"{path}, line {number}: it is of step {step.step} where step {before.step + 1} belongs")
    return Line(step.step, step, before.header, head, before.end + size, before.version)


def _version(path: Path, stated: Any) -> int:
    """Number of a format. Raises UserError where it is none, OtherVersionError where a later ClearSeek's."""
    found = re.fullmatch(r"clearseek-transcript-(\d{1,4})", stated) if isinstance(stated, str) else None
    if found is None:
        raise UserError(f'{path}, line 1: not the header of a transcript: "format" is not "{FORMAT}"')
    if int(found[1]) not in (1, 2):
        raise OtherVersionError(
            f"{path}, line 1: {stated}: a format of another ClearSeek; {clearseek.__version__} reads formats 1 and 2"
        )
    return int(found[1])


def begin(path: Path, header: dict[str, Any]) -> int:
    """The step after which a run began: 0, or the last of the run that it goes on from."""
    parent = header.get("parent", {"step": 0})
    step = parent.get("step") if isinstance(parent, dict) else None
    if type(step) is not int or step < 0:
        raise UserError(f"{path}, line 1: altered: it does not say after which step the run began")
    return step


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict):
        raise UserError(f"{path}, line {number}: altered: not a JSON object")
    return entry


def canonical(entry: dict[str, Any]) -> bytes:
    """One canonical JSON line, without the newline."""
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
