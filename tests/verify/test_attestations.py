"""Signed verifications in a release: counted when they fit, believed when the reader knows the key."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from clearseek.audit.evidence import Grade
from clearseek.signing import manifest as listing
from clearseek.signing.dsse import sign_statement
from clearseek.signing.keys import PublicKey, generate_key, load_private_key
from tests.releases import audited, compared

pytest.importorskip("cryptography", reason="signatures need the extra `release`")
ROW = "verification.parties"


@pytest.fixture
def listed(release: Path) -> Path:
    """With a manifest."""
    (release / listing.MANIFEST).write_bytes(listing.build(release).to_bytes())
    return release


def attest(release: Path, key: Path, *, machine: str = "one", public: bool = True, **changes: Any) -> PublicKey:
    """Add a statement as `verify --sign` does."""
    if not key.exists():
        generate_key(key)
    private = load_private_key(key)
    predicate = {"result": "PASSED", "passedTests": ["verify.final", "verify.steps.1-3"], "failedTests": [],
                 "environment": {"processor": machine}} | changes  # fmt: skip
    digest = changes.pop("digest", "") or hashlib.sha256((release / listing.MANIFEST).read_bytes()).hexdigest()
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": listing.MANIFEST, "digest": {"sha256": digest}}],
        "predicateType": changes.pop("kind", "https://in-toto.io/attestation/test-result/v0.1"),
        "predicate": predicate,
    }
    folder = release / listing.ATTESTATIONS
    folder.mkdir(exist_ok=True)
    (folder / f"{key.name}.json").write_bytes(sign_statement(statement, private))
    if public:
        (folder / f"{key.name}.pub").write_bytes(private.public.pem)
    return private.public


def test_of_nobody_there_is_no_row(listed: Path) -> None:
    assert compared(listed).get(ROW) is None
    assert audited(listed).get(ROW) is None


def test_keys_that_nobody_knows_are_counted_and_lift_nothing(listed: Path, tmp_path: Path) -> None:
    before = compared(listed)
    attest(listed, tmp_path / "a")
    attest(listed, tmp_path / "b")
    found = compared(listed)
    assert (found[ROW].answer, found[ROW].grade) == ("unknown", Grade.CLAIMED)
    assert "2 parties on 1 kind of machine" in found[ROW].reason
    assert {row.id: row.grade for row in found if row.id != ROW} == {
        row.id: row.grade for row in before if row.id != ROW
    }


def test_a_key_that_is_trusted_lifts_what_it_did_again(listed: Path, tmp_path: Path) -> None:
    grade = compared(listed)["weights.final"].grade
    assert grade == Grade.CHECKED
    keys = [attest(listed, tmp_path / "a"), attest(listed, tmp_path / "b", machine="other", public=False)]
    attest(listed, tmp_path / "c")
    found = compared(listed, *keys)
    assert (found[ROW].answer, found[ROW].grade) == ("yes", Grade.REEXECUTED)
    assert "2 parties on 2 kinds of machine" in found[ROW].reason
    assert found["weights.final"].grade == Grade.REEXECUTED
    assert "re-executed by 2 parties" in found["weights.final"].reason
    assert found["data.training"].answer == "no", "what is not there stays so, whatever anyone signs"


def test_a_trusted_key_that_found_a_difference_is_heard(listed: Path, tmp_path: Path) -> None:
    key = attest(listed, tmp_path / "a", failedTests=["verify.steps.4-6"])
    found = compared(listed, key)
    assert found[ROW].answer == "no" and "verify.steps.4-6" in found[ROW].reason
    assert found["weights.final"].grade == Grade.CHECKED


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"digest": "0" * 64}, "another release"),
        ({"kind": "https://slsa.dev/provenance/v1"}, "something else"),
    ],
)
def test_statements_of_other_things_do_not_count(
    listed: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    key = attest(listed, tmp_path / "a", **changes)
    found = compared(listed, key)
    assert found[ROW].answer == "no" and message in found[ROW].reason
    assert found["weights.final"].grade == Grade.CHECKED


def test_a_forged_statement_does_not_count(listed: Path, tmp_path: Path) -> None:
    key = attest(listed, tmp_path / "a")
    other = attest(listed, tmp_path / "b")
    path = listed / listing.ATTESTATIONS / "b.json"
    bundle = json.loads(path.read_bytes())
    bundle["verificationMaterial"]["publicKey"]["hint"] = key.fingerprint
    path.write_text(json.dumps(bundle))
    row = compared(listed, key, other)[ROW]
    assert "1 party on" in row.reason and "b.json" in row.reason and "does not fit" in row.reason


def test_files_that_are_not_the_manifests_are_not_lifted(listed: Path, tmp_path: Path) -> None:
    key = attest(listed, tmp_path / "a")
    (listed / "README.md").write_text((listed / "README.md").read_text() + "more\n")
    found = compared(listed, key)
    assert found["weights.final"].grade == Grade.CHECKED


def test_rubbish_in_the_folder_stops_nothing(listed: Path, tmp_path: Path) -> None:
    key = attest(listed, tmp_path / "a")
    folder = listed / listing.ATTESTATIONS
    (folder / "x.json").write_bytes(b"\xff{")
    (folder / "x.pub").write_bytes(b"no key")
    (folder / "deep.json").write_text("[" * 5000)
    row = compared(listed, key)[ROW]
    assert row.answer == "yes" and "not counted" in row.reason
