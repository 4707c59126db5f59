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


def verdict(rows: tuple[Row, ...]) -> Verdict:
    """in-toto's result: WARNED where a row is undecided, or decided only within a band of drift."""
    answers = {row.answer for row in rows}
    if answers & {"no", "partly"}:
        return "FAILED"
    drifted = any(VERIFY_DRIFT.covers(row.id) for row in rows)
    return "WARNED" if drifted or answers & {"unknown", "not applicable"} else "PASSED"


def as_statement(found: Verified, environment: dict[str, Any]) -> dict[str, Any]:
    """The statement, ready to be signed."""
    rows = found.rows
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
            "passedTests": [row.id for row in rows if row.answer == "yes"],
            "failedTests": [row.id for row in rows if row.answer in ("no", "partly")],
            "warnedTests": [row.id for row in rows if row.answer in ("unknown", "not applicable")],
            "environment": environment,
        },
    }


def summary(found: Verified) -> str:
    """The verdict, with the number of rows that passed, failed and are undecided."""
    rows = found.rows
    passed = sum(row.answer == "yes" for row in rows)
    failed = sum(row.answer in ("no", "partly") for row in rows)
    text = f"{verdict(rows)}: {passed} of {len(rows)}"
    if failed:
        text += f"; {failed} failed"
    if open_ := len(rows) - passed - failed:
        text += f"; {open_} undecided"
    return text


def coverage(found: Verified) -> str:
    """Share of the training that was done again, in words."""
    (segments, every), (steps, total) = found.segments, found.steps
    if not segments:
        return "no step of the training was done again"
    return f"{segments} of {every} segments trained again, {steps:,} of {total:,} steps ({steps / total:.1%})"
