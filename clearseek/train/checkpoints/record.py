"""What a checkpoint says of itself: ``checkpoint.json``, read as a stranger's.

One process writes each group of tensors whole, to a file (format 2). Many processes write what each holds (format 3):
then the record lists of every file its *pieces*, which are runs of elements of tensors in their flat order, and the
pieces of a tensor must follow one another from its first element to its last. A record is under its own SHA-256, which
tells damage; that it also makes sense is checked here, for whoever forges one can hash it too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import clearseek
from clearseek.errors import OtherVersionError, UserError
from clearseek.files import sha256_bytes, write_atomic
from clearseek.jsontext import is_later
from clearseek.parts import Part

RECORD = "checkpoint.json"
FORMAT = "clearseek-checkpoint-2"
"""Of one process. Format 1, of ClearSeek 0.1, had no name and the same tensors; its state says nothing of the tokens so
far."""
FORMAT_OF_MANY = "clearseek-checkpoint-3"
"""Of many processes."""
_FILES = {FORMAT: re.compile(r"[a-z]+\.safetensors"), FORMAT_OF_MANY: re.compile(r"[a-z]+-[0-9]{5,9}\.safetensors")}
_MOST_ELEMENTS = 2**60
HELD_TYPES = ("F64", "I64", "F32", "I32", "BF16", "F16", "I16", "F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL")
"""Types that a checkpoint may hold, by safetensors' names, in the order in which it writes tensors."""


class Piece(NamedTuple):
    """A run of elements in a file."""

    file: str
    dtype: str
    """Type by safetensors' name, such as ``F32``."""
    part: Part
    """Which elements."""


class File(NamedTuple):
    """A file of a checkpoint."""

    size: int
    sha256: str
    pieces: tuple[Piece, ...] | None
    """What is in it; None in a checkpoint of one process, whose files tell it themselves."""

    @staticmethod
    def of(name: str, entry: Mapping[str, Any], of_many: bool) -> File:
        """Of its entry in a record. Raises KeyError, TypeError, ValueError or AttributeError where that is none."""
        size, digest = entry["size"], entry["sha256"]
        if type(size) is not int or type(digest) is not str:
            raise TypeError("files")
        return File(size, digest, tuple(_pieces(name, entry["pieces"])) if of_many else None)

    def entry(self) -> dict[str, Any]:
        """The file as the record lists it."""
        entry: dict[str, Any] = {"size": self.size, "sha256": self.sha256}
        if self.pieces is not None:
            entry["pieces"] = {p.part.name: [p.dtype, [*p.part.shape], p.part.start, p.part.stop] for p in self.pieces}
        return entry


@dataclass(frozen=True)
class Record:
    """A checkpoint's record."""

    step: int
    """Steps taken when it was written."""
    files: Mapping[str, File]
    """By name."""
    state: dict[str, Any] = field(default_factory=dict)
    """State beside the tensors, as JSON values."""

    @property
    def of_many(self) -> bool:
        """Whether many processes wrote it."""
        return any(file.pieces is not None for file in self.files.values())

    def chosen(self, groups: Collection[str] | None) -> list[str]:
        """Names of the files of these groups; None means all."""
        return [name for name in self.files if groups is None or group_of(name) in groups]

    def write(self, folder: Path) -> None:
        """Write it to a checkpoint's folder. It must be the last file there."""
        files = {name: file.entry() for name, file in self.files.items()}
        kind = FORMAT_OF_MANY if self.of_many else FORMAT
        record = {"format": kind, "step": self.step, "files": files, "state": self.state}
        document = {"checkpoint": record, "sha256": sha256_bytes(canonical(record))}
        write_atomic(folder / RECORD, json.dumps(document, indent=None if self.of_many else 1, allow_nan=False) + "\n")


def folder_name(step: int) -> str:
    """Of a step's folder: the one way to write it."""
    return f"step-{step:08d}"


def group_of(name: str) -> str:
    """Group of tensors that a file holds, or some of them."""
    return name.partition(".")[0].partition("-")[0]


def canonical(record: Any) -> bytes:
    """The bytes of a record that its SHA-256 is of."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def read_record(path: Path) -> Record:
    """Read the record of a checkpoint's folder; no other file is touched.

    Raises:
        UserError: it is missing, damaged, or makes no sense.
        OtherVersionError: it is of a format that this version does not know.
    """
    file = path / RECORD
    try:
        document = json.loads(file.read_bytes())
        raw, digest = document["checkpoint"], document["sha256"]
        if sha256_bytes(canonical(raw)) != digest:
            raise UserError(f"{file}: altered since it was written: its SHA-256 does not match")
        record = _parse(file, raw)
        if path.name != folder_name(record.step):
            raise UserError(f"{file}: the record of step {record.step}, and not of {path.name}")
    except OSError as error:
        raise UserError(f"{file}: cannot read the checkpoint: {error.strerror}") from None
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{file}: cut short or altered: not the record of a checkpoint") from None
    return record


def _parse(file: Path, raw: Mapping[str, Any]) -> Record:
    """Raises ValueError, KeyError, TypeError or AttributeError for what is no record at all."""
    kind = raw.get("format", FORMAT)
    if is_later(kind, FORMAT_OF_MANY):
        raise OtherVersionError(
            f"{file}: format {kind}: of another version of ClearSeek; {clearseek.__version__} reads "
            f"{FORMAT_OF_MANY} and what came before"
        )
    if kind not in _FILES:
        raise UserError(f"{file}: altered: its format, {kind!r:.60}, is none of ClearSeek's")
    if not all(map(_FILES[kind].fullmatch, raw["files"])) or not isinstance(raw["state"], dict):
        raise UserError(f"{file}: not the record of a checkpoint: it names other files than its own, or has no state")
    if type(raw["step"]) is not int:
        raise TypeError("step")
    files = {name: File.of(name, entry, kind == FORMAT_OF_MANY) for name, entry in raw["files"].items()}
    if kind == FORMAT_OF_MANY:
        check_pieces(file, files)
    return Record(raw["step"], files, raw["state"])


def _pieces(file: str, raw: Mapping[str, Any]) -> Iterator[Piece]:
    for name, (dtype, shape, start, stop) in raw.items():
        if dtype not in HELD_TYPES or not isinstance(shape, list):
            raise TypeError(name)
        numbers = [start, stop, *shape]
        if not all(type(number) is int and 0 <= number < _MOST_ELEMENTS for number in numbers):
            raise TypeError(name)
        yield Piece(file, dtype, Part(name, tuple(shape), start, stop))


def check_pieces(file: Path, files: Mapping[str, File]) -> None:
    """Raise UserError where pieces do not make up whole tensors."""
    for group in sorted({group_of(name) for name in files}):
        for name, pieces in tensors_of(files, group).items():
            first, end = pieces[0], 0
            for piece in pieces:
                part = piece.part
                if (piece.dtype, part.shape) != (first.dtype, first.part.shape):
                    raise UserError(f"{file}: {group}: {name:.200} has two types or shapes: files of two checkpoints")
                if part.start != end or part.stop < part.start:
                    what = "overlap" if part.start < end or part.stop < part.start else "leave a gap"
                    raise UserError(
                        f"{file}: {group}: the pieces of {name:.200} {what} at element {min(part.start, end):,}: "
                        "files of two layouts, or a forged record"
                    )
                end = part.stop
            if end != prod(first.part.shape):
                raise UserError(
                    f"{file}: {group}: the pieces of {name:.200} end at element {end:,} of {prod(first.part.shape):,}: "
                    "a process's file is missing, or the record is forged"
                )


def tensors_of(files: Mapping[str, File], group: str) -> dict[str, list[Piece]]:
    """The pieces of each tensor of a group, in their order."""
    found: dict[str, list[Piece]] = {}
    for name, file in files.items():
        if group_of(name) == group:
            for piece in file.pieces or ():
                found.setdefault(piece.part.name, []).append(piece)
    for pieces in found.values():
        pieces.sort(key=lambda piece: (piece.part.start, piece.part.stop))
    return found
