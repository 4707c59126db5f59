"""What an audit says: rows, each an assertion about a release with its answer, its grade and the bytes that show it.

An openness table usually holds a person's judgement. Here every row starts from an assertion ("the complete training
data are published"), answers it, and says how far the answer has been shown: not at all, by somebody's word, by a link,
by bytes that are here, by bytes that agree with other bytes, or by doing it again. What could not be looked at is
``unknown``, which is not a no. Frameworks (:mod:`clearseek.audit.views`) are read off the rows: they judge nothing
anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

Answer = Literal["yes", "partly", "no", "unknown", "not applicable"]
Dimension = Literal["technical", "definition", "impact"]
"""What the weights are and allow; what is open; what it means in practice."""


class Grade(IntEnum):
    """How far something has been shown to be there, and to be what it is said to be."""

    ABSENT = 0
    """Nobody says that it is there."""
    CLAIMED = 1
    """A text says so."""
    LINKED = 2
    """A text says where it is; the place was not read."""
    PRESENT = 3
    """It is here: bytes, named and hashed."""
    CHECKED = 4
    """It is here and agrees with something else that is here."""
    REEXECUTED = 5
    """It was made again, and the same came out."""

    @property
    def label(self) -> str:
        """``E0 absent`` to ``E5 re-executed``."""
        words = ("absent", "claimed", "linked", "present", "cross-checked", "re-executed")
        return f"E{int(self)} {words[self]}"


@dataclass(frozen=True, slots=True)
class Evidence:
    """A place in a release that anybody can look up."""

    file: str
    """Path inside the release; a folder ends in a slash."""
    where: str = ""
    """``line 12``, ``bytes 8-4095``, ``key rope_scaling.factor``; empty for the whole file."""
    quote: str = ""
    """What stands there, shortened."""
    sha256: str = ""
    """Of the whole file, in hex, where it was read whole."""

    def __str__(self) -> str:
        place = f"{self.file}, {self.where}" if self.where else self.file
        return f"{place}: “{self.quote}”" if self.quote else place


@dataclass(frozen=True, slots=True)
class Row:
    """One assertion about a release, answered."""

    id: str
    """Stable name, such as ``data.training``; the part before the dot is its subject."""
    dimension: Dimension
    """Which question it belongs to."""
    title: str
    """The assertion, such as “The complete training data are published”."""
    answer: Answer
    """Whether it holds."""
    grade: Grade
    """How far that which is asserted has been shown. A claim that turned out false stays at `CLAIMED`."""
    reason: str
    """Why this answer and this grade: what was looked at, what was found, what is missing."""
    evidence: tuple[Evidence, ...] = ()
    """Where to see it."""

    @property
    def claimed(self) -> bool:
        """Whether the publisher's word is enough to say yes."""
        return self.answer in ("yes", "partly") and self.grade >= Grade.CLAIMED

    @property
    def proven(self) -> bool:
        """Whether the bytes at hand say yes."""
        return self.answer == "yes" and self.grade >= Grade.PRESENT

    def as_json(self) -> dict[str, Any]:
        """The row as JSON values."""
        return {
            "id": self.id,
            "dimension": self.dimension,
            "title": self.title,
            "answer": self.answer,
            "grade": int(self.grade),
            "reason": self.reason,
            "evidence": [
                {name: value for name in ("file", "where", "quote", "sha256") if (value := getattr(each, name))}
                for each in self.evidence
            ],
        }


@dataclass(frozen=True, slots=True)
class Audit:
    """All rows about one release."""

    subject: str
    """The folder or hub name, with its revision."""
    rows: tuple[Row, ...]
    """In the order of the checks."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Measured numbers that reports show: parameters, bytes, dtypes, costs."""
    files: dict[str, str] = field(default_factory=dict)
    """Path -> SHA-256 in hex, of every file that was hashed."""

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.id == name:
                return row
        raise KeyError(name)

    def get(self, name: str) -> Row | None:
        """The row of this id, if the audit has it."""
        return next((row for row in self.rows if row.id == name), None)

    def of(self, dimension: Dimension) -> tuple[Row, ...]:
        """The rows of one dimension."""
        return tuple(row for row in self.rows if row.dimension == dimension)

    def problems(self) -> tuple[Row, ...]:
        """Rows whose assertion is false or only partly true."""
        return tuple(row for row in self.rows if row.answer in ("no", "partly"))

    def as_json(self) -> dict[str, Any]:
        """The audit as JSON values."""
        return {"subject": self.subject, "facts": self.facts, "rows": [row.as_json() for row in self.rows]}


def unique(rows: Iterable[Row]) -> tuple[Row, ...]:
    """The rows as they are. Two checks that answer one id are a defect of ours: raises AssertionError."""
    kept = tuple(rows)
    names = [row.id for row in kept]
    assert len(names) == len(set(names)), sorted({name for name in names if names.count(name) > 1})
    return kept
