"""Audit: run every check over a release and keep the rows. No torch, no model, no code of the release.

``audit(Folder(path))`` is the whole interface; the command line adds only words. The order of the checks is the order
of the table: what the weights are and allow, what is open, what it means in practice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from clearseek.audit.checks import (
    access,
    attestations,
    code,
    context,
    cost,
    crosscheck,
    data,
    documents,
    evaluations,
    files,
    licence,
    lineage,
    overlap,
    parameters,
    template,
    trajectory,
    weights,
)
from clearseek.audit.evidence import Audit, Row, unique
from clearseek.audit.read.source import Source
from clearseek.audit.read.subject import Subject
from clearseek.signing.keys import PublicKey

CHECKS: tuple[Callable[[Subject], Iterator[Row]], ...] = (
    files.rows, weights.rows, trajectory.rows, parameters.rows, context.rows, template.rows, licence.rows,
    documents.rows, data.rows, code.rows, access.rows, cost.rows, evaluations.rows, overlap.rows, lineage.rows,
    attestations.rows,
)  # fmt: skip


def audit(source: Source, name: str = "", trusted: tuple[PublicKey, ...] = (), base: Source | None = None) -> Audit:
    """Answer every row about a release.

    Args:
        source: The release.
        name: The model's name where the folder's is another, as cards name it: ``DeepSeek-V3``.
        trusted: Keys of those whose signed verifications in it count as re-execution.
        base: A release that it may have been made from: their weights are compared.
    """
    subject = Subject(source, name, trusted, base)
    order = {"technical": 0, "definition": 1, "impact": 2}
    found = crosscheck.lift(subject, unique(row for check in CHECKS for row in check(subject)))
    found = attestations.lift(subject, found)
    rows = tuple(sorted(found, key=lambda row: order[row.dimension]))
    return Audit(source.name, rows, _facts(subject), dict(sorted(source.hashes.items())))


_COUNTS: Final = (
    "total", "mtp", "checkpoint", "activated", "activated_without_embedding", "activated_without_embedding_and_head",
)  # fmt: skip


def _facts(subject: Subject) -> dict[str, Any]:
    """Numbers that reports show beside the rows."""
    facts: dict[str, Any] = {"name": subject.name, "files": len(subject.source.sizes)}
    facts["bytes"] = sum(subject.source.sizes.values())
    if subject.source.revision:
        facts["revision"] = subject.source.revision
    if subject.source.released:
        facts["released"] = subject.source.released
    if subject.counts is not None:
        facts["parameters"] = {name: getattr(subject.counts, name) for name in _COUNTS}
    if census := weights.dtype_census(subject.weights):
        facts["elements"] = census
    return facts
