"""The records that a ClearSeek release carries, read once: transcript, manifest of the data, whatever is JSON.

Other people's releases have files of the same names and other forms; they are recognised by their transcript, and left
alone.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final

from pydantic import ValidationError

from clearseek.data.manifest import Manifest, check_lists, taught_fingerprint
from clearseek.errors import UserError
from clearseek.files import sha256_bytes
from clearseek.jsontext import strict_json
from clearseek.reading.subject import Subject

TRANSCRIPT: Final = "training/transcript.jsonl"
DATA_MANIFEST: Final = "data/manifest.json"
LONGEST_RECORD: Final = 500_000_000
"""Bytes of a record that are read."""
Result = tuple[bool, str, str] | None
"""Whether files agree, what was compared, and the file that shows it; None where there is nothing to compare."""


class Records:
    """The records of a ClearSeek release, read once."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.source = subject, subject.source

    def has(self, *paths: str) -> bool:
        """Whether all of these are here."""
        return all(path in self.source.sizes for path in paths)

    def json(self, path: str) -> dict[str, Any]:
        """A JSON object."""
        return self.source.json(path)

    @cached_property
    def ours(self) -> bool:
        """Whether the release carries a ClearSeek transcript, and so records that this module can read."""
        if TRANSCRIPT not in self.source.sizes:
            return False
        try:
            header = self.source.read(TRANSCRIPT, 100_000).split(b"\n")[0]
            return any(b'"format":"clearseek-transcript-%d"' % version in header for version in (1, 2))
        except UserError:
            return False

    @cached_property
    def transcript(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Header and steps, the chain of hashes followed; a step's scalars stand beside the rest, as in format 1.

        Raises UserError at the first line that breaks it.
        """
        lines = self.source.read(TRANSCRIPT, LONGEST_RECORD).split(b"\n")[:-1]
        parsed: list[dict[str, Any]] = []
        for number, line in enumerate(lines, 1):
            entry = strict_json(line, f"{TRANSCRIPT}, line {number}")
            if number > 1 and entry.get("prev") != sha256_bytes(lines[number - 2]):
                raise UserError(f"{TRANSCRIPT}, line {number}: its hash of the line before is wrong")
            parsed.append(entry)
            if number > 1 and entry.get("step") != (step := _begin(parsed[0]) + number - 1):
                raise UserError(f"{TRANSCRIPT}, line {number}: not of step {step}")
            if isinstance(scalars := entry.get("scalars"), dict):
                entry |= scalars
        return parsed[0], parsed[1:]

    @property
    def version(self) -> int:
        """Format of the transcript."""
        return 1 if self.transcript[0].get("format") == "clearseek-transcript-1" else 2

    @property
    def begin(self) -> int:
        """The step after which the run began: 0, or the last of the run that it goes on from."""
        return _begin(self.transcript[0])

    @cached_property
    def data(self) -> Result:
        """The data's files are those of their manifest, it counts what they hold, and the transcript names them."""
        try:
            manifest = Manifest.model_validate_json(self.source.read(DATA_MANIFEST, LONGEST_RECORD))
        except ValidationError as error:
            return False, f"{DATA_MANIFEST} is damaged: {error.errors()[0]['msg'][:200]}", DATA_MANIFEST
        for entry in manifest.files:
            path = f"data/{entry.name}"
            other = self.source.is_other(path, entry.sha256)
            if other or (self.source.sha256(path) and self.source.sizes[path] != entry.bytes):
                return False, f"{path} is not the file that {DATA_MANIFEST} lists", path
        needed = {"documents.jsonl", "tokenizer.json"} - {entry.name for entry in manifest.files}
        if needed or not manifest.train.shards:
            return False, f"{DATA_MANIFEST} does not list {', '.join(sorted(needed)) or 'any shard'}", DATA_MANIFEST
        teacher = self.transcript[0].get("teacher")
        if self.transcript[0]["data_fingerprint"] != taught_fingerprint(manifest.fingerprint, teacher):
            return False, "the transcript was made with other data: another fingerprint", TRANSCRIPT
        if self.source.sizes.get("data/heldout.txt", manifest.heldout.bytes) != manifest.heldout.bytes:
            what = f"data/heldout.txt is not of the {manifest.heldout.bytes:,} bytes that are counted"
            return False, what, DATA_MANIFEST
        lines = self.source.read("data/documents.jsonl", LONGEST_RECORD).splitlines()
        tokenizer = sha256_bytes(self.source.read("data/tokenizer.json", LONGEST_RECORD))
        try:
            check_lists(manifest, map(manifest.entry, lines), tokenizer)
        except UserError as error:
            return False, f"data/{error}", DATA_MANIFEST
        what = f"its {len(manifest.files)} files have the manifest's hashes, {len(lines):,} documents make"
        return True, f"{what} its fingerprint, and the transcript names it", DATA_MANIFEST


def _begin(header: dict[str, Any]) -> int:
    """The step after which a run began: 0, or the last of the run that it goes on from."""
    parent = header.get("parent")
    step = parent.get("step") if isinstance(parent, dict) else None
    return step if isinstance(step, int) else 0
