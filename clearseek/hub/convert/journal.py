"""The journal of an unfinished conversion: the work it belongs to, and the files that are done.

The journal is in the output folder from before the first weight file to after config.json: a folder with a journal is
unfinished, and a folder without one whole. A file counts as done only if it and the files it was made from have the
size and the time of last change on record. So a source file that changes costs the files made from it, and no more.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from clearseek.errors import UserError
from clearseek.files import reading, sha256_bytes, write_atomic
from clearseek.hub.convert.plan import ConversionPlan, Output
from clearseek.hub.convert.stream import Done

JOURNAL: Final = ".conversion.json"
_VERSION: Final = 1


@dataclass
class Journal:
    """The file ``.conversion.json`` of an output folder."""

    out: Path
    source: Path
    work: str
    """SHA-256 of everything but the numbers that decides the output's bytes; see :func:`identify`."""
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    """State and counts of the files that are done, by name."""

    @property
    def file(self) -> Path:
        """Path of the journal."""
        return self.out / JOURNAL

    def load(self) -> None:
        """Read the files that are done. Raises UserError for the journal of another conversion."""
        with reading(self.file):
            raw = self.file.read_bytes()
        try:
            content = json.loads(raw)
            version, work, done = content["version"], content["work"], content["done"]
            whole = all(isinstance(each[key], int) for each in done.values() for key in ("blocks", "kept"))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            whole = False
        if not whole:
            raise UserError(f"{self.file}: damaged: delete {self.out} and convert again")
        if version != _VERSION or work != self.work:
            raise UserError(
                f"{self.out}: holds an unfinished conversion of something else, or with other settings: finish that "
                "one, delete the folder, or choose another"
            )
        self.done = done

    def save(self) -> None:
        """Write the journal."""
        content = {"version": _VERSION, "work": self.work, "done": self.done}
        write_atomic(self.file, json.dumps(content, indent=1, sort_keys=True) + "\n")

    def is_done(self, output: Output) -> bool:
        """Whether this file is present, whole, and made from the source as it is now."""
        entry = self.done.get(output.name)
        return entry is not None and self._state(output) == {key: entry.get(key) for key in ("file", "sources")}

    def sources_of(self, output: Output) -> dict[str, list[int] | None]:
        """Size and time of last change of the files that `output` is made from."""
        return {name: _identity(self.source / name) for name in output.sources}

    def add(self, output: Output, done: Done, sources: dict[str, list[int] | None]) -> None:
        """Record a finished file. Raises UserError where its sources are no longer as in `sources`, read before."""
        state = self._state(output)
        for name, before in sources.items():
            if state["sources"][name] != before:
                raise UserError(f"{self.source / name}: changed while it was converted: convert again")
        self.done[output.name] = {**state, "blocks": done.blocks, "kept": done.kept}
        self.save()

    def blocks(self) -> tuple[int, int]:
        """Number of blocks quantised so far, and of those that took their old scale."""
        return sum(each["blocks"] for each in self.done.values()), sum(each["kept"] for each in self.done.values())

    def _state(self, output: Output) -> dict[str, Any]:
        return {"file": _identity(self.out / output.name), "sources": self.sources_of(output)}


def identify(plan: ConversionPlan) -> str:
    """SHA-256 of the settings, the source's sizes and headers, and the headers and texts to be written."""
    source = plan.source
    parts = {
        "dtype": plan.dtype,
        "scales": plan.scales,
        "source": {name: [header.file_bytes, sha256_bytes(header.raw)] for name, header in source.headers.items()},
        "outputs": {output.name: sha256_bytes(output.header.raw) for output in plan.outputs},
        "texts": {name: sha256_bytes(raw) for name, raw in plan.texts.items()},
    }
    return sha256_bytes(json.dumps(parts, sort_keys=True).encode("utf-8"))


def _identity(path: Path) -> list[int] | None:
    """Size and time of last change in nanoseconds, or None for a missing file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]
