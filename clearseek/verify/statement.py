"""The result of a verification as an in-toto statement, which anybody can sign and add to the release.

The predicate is in-toto's ``test-result``, the subject the manifest, by the SHA-256 of its bytes. The statement gives
levels, nonce, publisher's key and the share of the training done again, so that nobody takes two hashes and no training
for a verified run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

import clearseek
from clearseek.audit.evidence import Row
from clearseek.audit.questions import VERIFY_DRIFT, VERIFY_STEPS
from clearseek.signing import manifest as manifests
from clearseek.signing.dsse import STATEMENT_TYPE
from clearseek.verify.attestations import RESULT
from clearseek.verify.run import Verified

Verdict = Literal["PASSED", "WARNED", "FAILED"]
NAME: Final = "clearseek verify"
_REASON: Final = 400
"""Letters of a reason in a part's statement."""
_FAILED, _OPEN = ("no", "partly"), ("unknown", "not applicable")
"""Answers of rows that failed, and of undecided rows."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came out of each test, by the rows' ids."""

    passed: tuple[str, ...]
    failed: tuple[str, ...]
    undecided: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """in-toto's result: WARNED where a row is undecided, or decided only within a band of drift."""
        if self.failed:
            return "FAILED"
        return "WARNED" if self.undecided or any(map(VERIFY_DRIFT.covers, self.passed)) else "PASSED"

    @property
    def undone(self) -> bool:
        """Whether training was asked for and could not be done."""
        return any(map(VERIFY_STEPS.covers, self.undecided))

    @property
    def every(self) -> tuple[str, ...]:
        """All ids."""
        return (*self.passed, *self.failed, *self.undecided)

    def __str__(self) -> str:
        text = f"{self.verdict}: {len(self.passed)} of {len(self.every)}"
        counts = {"failed": len(self.failed), "undecided": len(self.undecided)}
        return text + "".join(f"; {count} {name}" for name, count in counts.items() if count)


def result_of(rows: Iterable[Row]) -> Result:
    """Answers of the rows of the verification itself: ``verify.static`` speaks for those of the audit."""
    own = [row for row in rows if row.id.startswith("verify.")]
    passed, failed, undecided = (
        tuple(row.id for row in own if row.answer in answers) for answers in (("yes",), _FAILED, _OPEN)
    )
    return Result(passed, failed, undecided)


def as_statement(found: Verified, environment: dict[str, Any]) -> dict[str, Any]:
    """The statement of a verification, ready to be signed."""
    annotations: dict[str, Any] = {
        "version": clearseek.__version__,
        "levels": list(found.levels),
        "nonce": found.nonce,
        "merkleRoot": found.merkle_root,
        "publisherKey": found.key or None,
        "segments": {"trained": found.segments[0], "of": found.segments[1]},
        "steps": {"trained": found.steps[0], "of": found.steps[1]},
    }
    if found.share is not None:
        annotations["part"] = {
            "number": found.share.part.number,
            "of": found.share.part.of,
            "segments": [[each.begin, each.end] for each in found.share.segments],
            "transcript": found.share.transcript,
            "code": found.share.code,
            "reasons": {
                row.id: row.reason[:_REASON]
                for row in found.rows
                if row.id.startswith("verify.") and (row.answer != "yes" or VERIFY_DRIFT.covers(row.id))
            },
        }
    return statement_of(found.manifest_sha256, result_of(found.rows), annotations, environment)


def statement_of(
    manifest_sha256: str, found: Result, annotations: dict[str, Any], environment: dict[str, Any]
) -> dict[str, Any]:
    """An in-toto statement of what came out of tests."""
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": manifests.MANIFEST, "digest": {"sha256": manifest_sha256}}],
        "predicateType": RESULT,
        "predicate": {
            "result": found.verdict,
            "configuration": [{"name": NAME, "annotations": annotations}],
            "passedTests": list(found.passed),
            "failedTests": list(found.failed),
            "warnedTests": list(found.undecided),
            "environment": environment,
        },
    }


def coverage(segments: tuple[int, int], steps: tuple[int, int]) -> str:
    """Share of the training that was done again, in words.

    Args:
        segments: Number trained again, and of all.
        steps: As `segments`.
    """
    if not segments[0]:
        return "no step of the training was done again"
    share = steps[0] / steps[1]
    return f"{segments[0]} of {segments[1]} segments trained again, {steps[0]:,} of {steps[1]:,} steps ({share:.1%})"
