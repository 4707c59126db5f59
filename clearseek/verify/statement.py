"""The result of a verification as an in-toto statement, which anybody can sign and add to the release.

The predicate is in-toto's ``test-result``, the subject the manifest, by the SHA-256 of its bytes. The statement gives
levels, nonce, publisher's key and the share of the training done again, so that nobody takes two hashes and no training
for a verified run.
"""

from __future__ import annotations

from typing import Any, Literal

import clearseek
from clearseek.audit.evidence import Row
from clearseek.audit.questions import VERIFY_DRIFT
from clearseek.signing import manifest as manifests
from clearseek.verify.run import Verified

Verdict = Literal["PASSED", "WARNED", "FAILED"]


_FAILED, _OPEN = ("no", "partly"), ("unknown", "not applicable")
"""Answers of rows that failed, and of undecided rows."""


def verified(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """The rows of the verification itself: ``verify.static`` speaks for those of the audit."""
    return tuple(row for row in rows if row.id.startswith("verify."))


def verdict(rows: tuple[Row, ...]) -> Verdict:
    """in-toto's result: WARNED where a row is undecided, or decided only within a band of drift."""
    rows = verified(rows)
    if _ids(rows, *_FAILED):
        return "FAILED"
    return "WARNED" if _ids(rows, *_OPEN) or any(VERIFY_DRIFT.covers(row.id) for row in rows) else "PASSED"


def _ids(rows: tuple[Row, ...], *answers: str) -> list[str]:
    return [row.id for row in rows if row.answer in answers]


def as_statement(found: Verified, environment: dict[str, Any]) -> dict[str, Any]:
    """The statement, ready to be signed."""
    rows = verified(found.rows)
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": manifests.MANIFEST, "digest": {"sha256": found.manifest_sha256}}],
        "predicateType": "https://in-toto.io/attestation/test-result/v0.1",
        "predicate": {
            "result": verdict(rows),
            "configuration": [
                {
                    "name": "clearseek verify",
                    "annotations": {
                        "version": clearseek.__version__,
                        "levels": list(found.levels),
                        "nonce": found.nonce,
                        "merkleRoot": found.merkle_root,
                        "publisherKey": found.key or None,
                        "segments": {"trained": found.segments[0], "of": found.segments[1]},
                        "steps": {"trained": found.steps[0], "of": found.steps[1]},
                    },
                }
            ],
            "passedTests": _ids(rows, "yes"),
            "failedTests": _ids(rows, *_FAILED),
            "warnedTests": _ids(rows, *_OPEN),
            "environment": environment,
        },
    }


def summary(found: Verified) -> str:
    """The verdict, with the number of rows that passed, failed and are undecided."""
    rows = verified(found.rows)
    text = f"{verdict(rows)}: {len(_ids(rows, 'yes'))} of {len(rows)}"
    counts = {"failed": len(_ids(rows, *_FAILED)), "undecided": len(_ids(rows, *_OPEN))}
    return text + "".join(f"; {count} {name}" for name, count in counts.items() if count)


def coverage(found: Verified) -> str:
    """Share of the training that was done again, in words."""
    (segments, every), (steps, total) = found.segments, found.steps
    if not segments:
        return "no step of the training was done again"
    return f"{segments} of {every} segments trained again, {steps:,} of {total:,} steps ({steps / total:.1%})"
