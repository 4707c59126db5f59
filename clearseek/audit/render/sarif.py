"""An audit as SARIF 2.1.0, the format in which code-scanning services read findings.

Source: OASIS, Static Analysis Results Interchange Format 2.1.0.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import clearseek
from clearseek.audit.evidence import Answer, Audit, Evidence, Grade, Row
from clearseek.signing.tree import visible

_LEVELS: dict[Answer, str] = {"no": "error", "partly": "warning", "unknown": "note"}
"""Level of an answer; what is merely absent is a warning, since nothing in the release is wrong about it."""


def as_sarif(audit: Audit) -> dict[str, Any]:
    """A log with one rule a row, and one result for each row that is not a plain yes."""
    rules = [{"id": row.id, "shortDescription": {"text": row.title}} for row in audit]
    results = [_result(row, number) for number, row in enumerate(audit) if row.answer in _LEVELS]
    driver = {"name": "clearseek audit", "version": clearseek.__version__, "rules": rules}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }


def _result(row: Row, number: int) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": row.id,
        "ruleIndex": number,
        "level": "warning" if row.answer == "no" and row.grade == Grade.ABSENT else _LEVELS[row.answer],
        "message": {"text": _text(f"{row.title}: {row.answer} ({row.grade.label}). {row.reason}")},
    }
    # Code hosts show a result at a place: what is nowhere is put to the card, where one would look for it.
    result["locations"] = [_location(each) for each in row.evidence[:10] or (Evidence("README.md"),)]
    return result


def _text(text: str) -> str:
    """A message without links: brackets would make one (section 3.11.6), and nothing in it is unseen."""
    return re.sub(r"[\\\[\]]", r"\\\g<0>", visible(text))


def _location(place: Evidence) -> dict[str, Any]:
    physical: dict[str, Any] = {"artifactLocation": {"uri": quote(place.file, errors="replace")}}
    if match := re.match(r"line (\d+)", place.where):
        physical["region"] = {"startLine": int(match[1])}
    elif match := re.match(r"bytes (\d+)-(\d+)", place.where):
        begin, end = int(match[1]), int(match[2])
        physical["region"] = {"byteOffset": begin, "byteLength": end - begin + 1}
    return {"physicalLocation": physical}
