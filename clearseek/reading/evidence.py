"""Places in a release, as everything that is found there is told by; and numbers with their nouns."""

from __future__ import annotations

from dataclasses import dataclass


def amount(number: int, noun: str, many: str = "") -> str:
    """A number with its noun: ``1 file``, ``2,000 files``."""
    return f"{number:,} {noun if number == 1 else many or noun + 's'}"


@dataclass(frozen=True, slots=True)
class Evidence:
    """A place in a release that anybody can look up."""

    file: str
    """Path inside the release; a folder ends in a slash."""
    where: str = ""
    """``line 12``, ``bytes 8-4095``, ``key rope_scaling.factor``; empty for the whole file."""
    quote: str = ""
    """The text at this place, shortened."""
    sha256: str = ""
    """SHA-256 of the whole file in hex, where it was read whole."""

    def __str__(self) -> str:
        place = f"{self.file}, {self.where}" if self.where else self.file
        return f"{place}: “{self.quote}”" if self.quote else place
