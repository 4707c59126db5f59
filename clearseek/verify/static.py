"""Level 1: what can be told without doing anything again.

The audit of the release as of anybody's, each row then compared with the release's own records
(:mod:`clearseek.verify.crosscheck`), and rows that only a ClearSeek release can have: the order of its data and what of
them it is tested on, the order of its checkpoints, and what others have signed (:mod:`clearseek.verify.attestations`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from clearseek.audit import questions as ask
from clearseek.audit.audit import audit_subject
from clearseek.audit.checks.data_sets import data_files
from clearseek.audit.evidence import Audit, Grade, Row
from clearseek.reading.evidence import amount
from clearseek.reading.source import Source
from clearseek.reading.subject import Subject
from clearseek.verify import attestations, crosscheck, lineage, overlap, trajectory
from clearseek.verify.attestations import Keys
from clearseek.verify.records import TRANSCRIPT, Records

_FIGURES: Final = (
    ask.CLAIMS_CONSISTENT, ask.COST_COMPUTE, ask.COST_OPERATIONS, ask.COST_DEVICES, ask.COST_PRICE,
    ask.DOCUMENTS_DATA_SUMMARY,
)  # fmt: skip
"""Questions of the practical dimension that a false figure refutes."""
_MAY_BE_FALSE: Final = ("files", "weights", "parameters", "context", "tokenizer", "claims", "licence")
"""Subjects of technical questions whose "no" refutes a statement."""


def static_audit(source: Source, trusted: Keys = (), intact: bool = False) -> Audit:
    """The audit of a ClearSeek release, compared with its records.

    Args:
        source: The release; only files whose hashes are known are compared with the hashes that records have.
        trusted: Keys of those whose signed verifications count as re-execution.
        intact: Whether its files are those of its manifest, of which such verifications speak.
    """
    subject = Subject(source)
    records = Records(subject)
    found = audit_subject(subject)
    own = {row.id: row for row in _own(records)}
    rows = [own.pop(row.id, row) for row in found] + list(own.values())
    lifted = crosscheck.lift(records, tuple(rows))
    if intact:
        lifted = attestations.lift(subject, lifted, trusted)
    if parties := attestations.parties_row(subject, trusted):
        lifted += (parties,)
    return replace(found, rows=lifted)


def _own(records: Records) -> Iterator[Row]:
    """Rows that only a ClearSeek release has."""
    if not records.ours:
        return
    yield from lineage.rows(records)
    yield from trajectory.rows(records.subject)
    yield from overlap.rows(records.subject)
    if data_files(records.subject):
        reason = f"a function of data fingerprint, seed and step, which {TRANSCRIPT} records"
        yield ask.DATA_ORDER.yes(Grade.PRESENT, reason, records.source.whole(TRANSCRIPT))


def compared_rows(found: Audit) -> Iterator[Row]:
    """Rows of a static audit to be shown: those that records or others' signatures confirm, and false ones."""
    for row in found:
        confirmed = row.question in (*crosscheck.COMPARED, ask.WEIGHTS_TRAJECTORY) and row.grade >= Grade.CHECKED
        if confirmed or row.question in ask.OWN or _is_false(row):
            yield row


def static_row(found: Audit) -> Row:
    """Row of the findings that refute a statement of the release."""
    wrong = [row.id for row in found if _is_false(row)]
    if wrong:
        return ask.VERIFY_STATIC.no(Grade.CLAIMED, f"see {', '.join(wrong)}")
    return ask.VERIFY_STATIC.yes(Grade.CHECKED, f"{amount(len(found.rows), 'row')}")


def _is_false(row: Row) -> bool:
    """Whether a row refutes a statement, which stays at E1, rather than says that evidence is missing, which is E0."""
    if row.dimension == "technical":
        subject = row.question == ask.LINEAGE_PARENT or row.id.split(".")[0] in _MAY_BE_FALSE
        return row.answer in ("no", "partly") and subject
    if row.dimension == "definition":
        return row.answer == "no" and row.grade == Grade.CLAIMED
    return row.answer == "no" and row.question in _FIGURES and bool(row.evidence)
