"""Facts: what a check found, as typed values beside the sentence that tells it.

Exports, views and other programs read facts, so a reason may be worded anew without changing what they say. In JSON
each fact is an object whose ``kind`` names its type.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final

from clearseek.licences.table import Licence, choices, lookup
from clearseek.licences.words import shorten

_NO_NAMES: Final = ("other", "unknown")
"""Tags that name no licence."""


@dataclass(frozen=True, slots=True)
class _Fact:
    """A kind of fact."""

    kind: ClassVar[str]

    def as_json(self) -> dict[str, Any]:
        """The fact as JSON values; what is not known is left out."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {"kind": self.kind, **{name: value for name, value in values.items() if value not in (None, "")}}


@dataclass(frozen=True, slots=True)
class LicenceFact(_Fact):
    """A licence that something is said to be under; several in one row hold together."""

    kind: ClassVar[str] = "licence"
    name: str
    """SPDX id, ``LicenseRef-...``, ``modified MIT``, or the publisher's own word for it."""
    spdx_id: str | None = None
    """Id on SPDX's list, or ids joined by ``OR`` where one may choose; None where the list does not have it."""
    file: str = ""
    """File of the licence's text; empty where it is only named."""


@dataclass(frozen=True, slots=True)
class ComputeFact(_Fact):
    """What training took, as far as it is stated."""

    kind: ClassVar[str] = "compute"
    operations: float | None
    """Operations that follow from the stated tokens."""
    hours: float | None
    """Device-hours."""
    device: str = ""
    """Kind of device that the hours are of."""


@dataclass(frozen=True, slots=True)
class PackagesFact(_Fact):
    """Software that is pinned."""

    kind: ClassVar[str] = "packages"
    versions: Mapping[str, str]
    """Package -> exact version."""


@dataclass(frozen=True, slots=True)
class SummaryFact(_Fact):
    """What a summary of training content says."""

    kind: ClassVar[str] = "content summary"
    fields: Mapping[str, str]
    """Field of the Commission's template -> its text, shortened."""


@dataclass(frozen=True, slots=True)
class RestrictionFact(_Fact):
    """Something that a licence, or a text beside it, takes back."""

    kind: ClassVar[str] = "restriction"
    flag: str
    """Kind of the clause, as :mod:`clearseek.licences.clauses` names it; ``changed`` for words that were added."""
    quote: str = ""
    """The words; empty where only the licence's name is here."""
    file: str = ""
    """File in which the words stand."""
    line: int | None = None


@dataclass(frozen=True, slots=True)
class MemoryFact(_Fact):
    """What it takes to hold the weights."""

    kind: ClassVar[str] = "memory"
    bytes: int
    accelerators: int
    """Accelerators of 80 GB that hold them, a tenth of each left for caches."""


@dataclass(frozen=True, slots=True)
class ScoreFact(_Fact):
    """A stated score on a benchmark whose number of questions is known."""

    kind: ClassVar[str] = "score"
    benchmark: str
    questions: int
    value: float
    """Share of right answers, as stated."""
    low: float
    high: float
    """95 % interval for the share over questions like these."""
    one_answer: bool
    """Whether one answer to each question can give the figure."""
    model: str = ""
    """Name of its row or column; empty for scores of the metadata."""
    samples: int | None = None
    """Answers to each question, where stated."""
    file: str = ""
    """File that states it."""
    missing: int | None = None
    """Questions that were not answered, where stated."""
    stated_low: float | None = None
    stated_high: float | None = None
    """95 % interval that is stated with the score."""
    method: str = ""
    """How that interval was computed, where stated: ``wilson``, ``clustered`` by question, ``bootstrap``."""


Fact = LicenceFact | ComputeFact | PackagesFact | SummaryFact | RestrictionFact | MemoryFact | ScoreFact


def licence_fact(licence: Licence, file: str = "") -> LicenceFact:
    """The fact that something is under a known licence."""
    return LicenceFact(licence.id, None if licence.id.startswith("LicenseRef-") else licence.id, file)


def named_licences(words: str) -> tuple[LicenceFact, ...]:
    """The licences that a tag names: one fact for each that holds, or one for all between which one may choose."""
    found = choices(words)
    if found and re.search(r"\sor\s", words, re.I):
        either = " OR ".join(licence.id for licence in found)
        return (LicenceFact(either, None if "LicenseRef-" in either else either),)
    if found:
        return tuple(map(licence_fact, found))
    names = [each for each in words.split(" AND ") if each.lower() not in _NO_NAMES]
    return tuple(licence_fact(known) if (known := lookup(each)) else LicenceFact(shorten(each, 200)) for each in names)
