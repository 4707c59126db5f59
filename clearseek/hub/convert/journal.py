"""The record of an unfinished conversion: what it was to be, and which files are done.

It lies in the output folder from before the first weight file to after config.json, so a folder with it is no
checkpoint yet, and one without it is whole. A file counts as done only if it is still as it was left (size and time of
last change) and so are the files it was made from. So a source that was mended costs the files made from it, and no
more.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from clearseek.errors import UserError
from clearseek.files import sha256_bytes, write_atomic
from clearseek.hub.convert.plan import Output, Plan
from clearseek.hub.convert.stream import Done

JOURNAL: Final = ".conversion.json"
_VERSION: Final = 1


@dataclass
class Journal:
    """``.conversion.json`` of a folder."""

    out: Path
    source: Path
    work: str
    """SHA-256 of everything that decides the output's bytes but the numbers."""
    done: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """Where it is."""
        return self.out / JOURNAL

    def load(self) -> None:
        """Read which files are done. Raises UserError when the record is of another conversion."""
        try:
            content = json.loads(self.file.read_bytes())
            version, work, done = content["version"], content["work"], content["done"]
            whole = all(isinstance(each[key], int) for each in done.values() for key in ("blocks", "kept"))
        except OSError as error:
            raise UserError(f"{self.file}: cannot read: {error.strerror}") from None
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
        """Write it."""
        content = {"version": _VERSION, "work": self.work, "done": self.done}
        write_atomic(self.file, json.dumps(content, indent=1, sort_keys=True) + "\n")

    def is_done(self, output: Output) -> bool:
        """Whether this file is there, whole, and made from what the source is now."""
        entry = self.done.get(output.name)
        return entry is not None and self._state(output) == {key: entry.get(key) for key in ("file", "sources")}

    def sources_of(self, output: Output) -> dict[str, list[int] | None]:
        """What the files that `output` is made from are now."""
        return {name: _identity(self.source / name) for name in output.sources}

    def add(self, output: Output, done: Done, sources: dict[str, list[int] | None]) -> None:
        """Record a file that has just taken its name; `sources` is from before it was begun.

        Raises UserError where a source has changed since.
        """
        state = self._state(output)
        for name, before in sources.items():
            if state["sources"][name] != before:
                raise UserError(f"{self.source / name}: changed while it was converted: convert again")
        self.done[output.name] = {**state, "blocks": done.blocks, "kept": done.kept}
        self.save()

    def blocks(self) -> tuple[int, int]:
        """Blocks quantised so far, and those of them that took their old scale."""
        return sum(each["blocks"] for each in self.done.values()), sum(each["kept"] for each in self.done.values())

    def _state(self, output: Output) -> dict[str, Any]:
        return {"file": _identity(self.out / output.name), "sources": self.sources_of(output)}


def identify(plan: Plan) -> str:
    """SHA-256 over the settings, the source's sizes and headers, and the headers and texts to be written."""
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
    """Size and time of last change, in nanoseconds; None where there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]
