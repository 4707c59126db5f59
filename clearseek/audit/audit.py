"""Audit: run every check over a release and keep the rows. No torch, no model, no code of the release.

``audit_release(path)`` is the whole interface; the command line adds only words. The order of the checks is that of
the table: what the weights are and allow, what is open, what it means in practice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from clearseek.audit.checks import (
    access,
    code,
    context,
    cost,
    data,
    documents,
    evaluations,
    files,
    licence,
    lineage,
    parameters,
    scores,
    template,
    trajectory,
    weights,
)
from clearseek.audit.evidence import Audit, Row
from clearseek.audit.hub import NAME, Hub, as_far_as_read
from clearseek.errors import UserError
from clearseek.reading.source import Folder, Source
from clearseek.reading.subject import Subject
from clearseek.signing.hashing import hash_files

CHECKS: tuple[Callable[[Subject], Iterator[Row]], ...] = (
    files.rows, weights.rows, trajectory.rows, parameters.rows, context.rows, template.rows, licence.rows,
    documents.rows, data.rows, code.rows, access.rows, cost.rows, evaluations.rows, scores.rows, lineage.rows,
)  # fmt: skip


def open_source(release: str | Path) -> Source:
    """A folder, or where there is none of that name a repository on the hub: ``owner/name`` or ``owner/name@revision``.

    Raises UserError where there is neither, or nothing in it.
    """
    path = str(release)
    if not Path(path).exists() and NAME.fullmatch(path):
        if Path(path).parent.is_dir():
            raise UserError(
                f"{path}: no such folder, while {Path(path).parent} is one: not looked for on the hub "
                "(for a repository of that name, run it from elsewhere)"
            )
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            raise UserError(f"{path}: no such folder, and HF_HUB_OFFLINE forbids to ask the hub")
        return Hub(path)
    source = Folder(Path(path))
    if not source.sizes and not source.problems:
        raise UserError(f"{path}: holds no files: there is nothing to audit")
    return source


def audit_release(release: str | Path | Source, name: str = "", base: str | Path | Source | None = None) -> Audit:
    """Answer every row about a release. Nothing of it is executed.

    Args:
        release: As for :func:`open_source`, its files hashed first; or a source that is open, as it is.
        name: The model's name where the card names several or none: ``DeepSeek-V3``.
        base: A release that it may have been made from: their weights are compared.

    Raises:
        UserError: there is no such release.
    """
    if isinstance(release, str | Path):
        source = open_source(release)
        if isinstance(source, Folder):
            source.hashes.update(hash_files(source.root, source.tree.files))
    else:
        source = release
    return audit_subject(Subject(source, name, open_source(base) if isinstance(base, str | Path) else base))


def audit_subject(subject: Subject) -> Audit:
    """Answer every row about a release that was taken apart."""
    source, order = subject.source, ("technical", "definition", "impact")
    rows = tuple(
        sorted((row for check in CHECKS for row in check(subject)), key=lambda row: order.index(row.dimension))
    )
    assert len({row.id for row in rows}) == len(rows), "two checks answer one question"
    return as_far_as_read(Audit(source.name, rows, _facts(subject), dict(sorted(source.hashes.items()))), source)


_COUNTS: Final = (
    "total", "mtp", "checkpoint", "activated", "activated_without_embedding", "activated_without_embedding_and_head",
)  # fmt: skip


def _facts(subject: Subject) -> dict[str, Any]:
    """Numbers that reports show beside the rows; what is not known is left out."""
    source, counts, counted = subject.source, subject.counts, subject.counted.value
    facts: dict[str, Any] = {
        "name": subject.name,
        "files": len(source.sizes),
        "name_from": subject.identity.origin,
        "siblings": list(subject.identity.siblings[:20]),  # which of them is meant, --name says
        "bytes": sum(source.sizes.values()),
        "revision": source.revision,
        "released": source.released,
        "parameters": counts and {name: getattr(counts, name) for name in _COUNTS},
        "counted": counted and {"total": counted.total, "activated": counted.activated, "by": counted.by},
        "elements": weights.dtype_census(subject.weights),
        "bases": list(
            dict.fromkeys(each.base for each in lineage.derived_models(subject) if each.model == subject.name)
        )[:20],
    }
    return {name: value for name, value in facts.items() if value not in (None, "", [], {}, ())}
