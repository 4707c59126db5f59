"""The answer of an audit in six lines, which every form of it begins with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from clearseek.audit.evidence import Audit


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an audit found, for somebody who reads no more."""

    sentence: str
    """The answer in one sentence."""

    def as_json(self) -> dict[str, Any]:
        """The verdict as JSON values."""
        return asdict(self)


def verdict(audit: Audit) -> Verdict:
    """The verdict over an audit's rows."""
    return Verdict("")
