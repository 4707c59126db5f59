"""What runs when it is loaded, and what a signature is worth before anybody's key was tried on it."""

from __future__ import annotations

import base64
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clearseek.audit.evidence import Grade, Row
from clearseek.audit.verdict import Line, verdict
from clearseek.signing.folder import sign_folder
from clearseek.signing.keys import generate_key, load_private_key
from tests.releases import audited

SYSTEM = b"cos\nsystem\n(S'id'\ntR."


def execution(release: Path) -> Row:
    return audited(release)["files.execution"]


def zipped(name: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, b"x")
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pytorch_model.bin", SYSTEM),
        ("vocab", SYSTEM),
        ("a.dat", b"I0\n0" + SYSTEM + b"more"),
        ("a.dat", pickle.dumps(pickle.Unpickler, 0)),
        ("a.dat", pickle.dumps(pickle.Unpickler, 1)),
        ("a.dat", pickle.dumps(pickle.Unpickler, 4)[2:]),
        ("a.dat", SYSTEM[:-1] + b"0I1\n" * 40_000 + b"."),
        ("a.dat", zipped("archive/data.pkl")),
        ("training_args.bin", b"anything"),
    ],
)
def test_a_pickle_of_any_protocol_is_one(release: Path, name: str, content: bytes) -> None:
    (release / name).write_bytes(content)
    row = execution(release)
    assert (row.answer, row.evidence[0].file) == ("no", name)


def test_data_are_no_pickles(release: Path) -> None:
    rng = np.random.default_rng(0)
    (release / "data").mkdir()
    for number in range(40):
        tokens = rng.integers(0, 60_000, 5_000, dtype=np.uint16).tobytes()
        (release / f"data/{number}.bin").write_bytes(b"cd(]}IS"[number % 7 :][:1] + tokens + b".")
    np.save(release / "a.npy", np.arange(9))
    np.savez(release / "b.npz", a=np.arange(9))
    (release / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    (release / "openvino_model.bin").write_bytes(rng.standard_normal(5_000).tobytes())
    (release / "words").write_bytes(b"cat\ndog\nend.\n")
    (release / "NOTICE").write_bytes(b"(c) 2026 Somebody.")
    assert (execution(release).answer, execution(release).grade) == ("yes", Grade.CHECKED)


def sign(release: Path) -> None:
    generate_key(release.parent / "key.pem")
    sign_folder(release, load_private_key(release.parent / "key.pem"))


def bundle(release: Path, **changes: Any) -> Path:
    """The release's signature with changes in it."""
    file = release / "model.sig"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | changes))
    return file


def contradictions(release: Path) -> Line:
    """The verdict's last line."""
    (line,) = [line for line in verdict(audited(release)).lines if line.label == "contradictions"]
    return line


def test_a_signature_is_read(release: Path) -> None:
    sign(release)
    row = audited(release)["files.signature"]
    assert (row.answer, row.grade) == ("yes", Grade.PRESENT)
    assert f"names {len(list(release.iterdir())) - 1} files, signed with a key" in row.reason
    (release / "more.bin").write_bytes(b"x")
    row = audited(release)["files.signature"]
    assert row.answer == "partly"
    assert "it leaves out more.bin" in row.reason
    assert contradictions(release).look == "yes", "a file beside the signed ones refutes nothing"
    bundle(release, verificationMaterial={"certificate": {"rawBytes": "AA=="}})
    assert "signed with a certificate of sigstore" in audited(release)["files.signature"].reason
    (release / "LICENSE").write_text("other")
    row = audited(release)["files.signature"]
    assert row.answer == "no"
    assert "other than what was signed: LICENSE" in row.reason
    found = contradictions(release)  # on the first screen
    assert found.look == "no" and found.rows[0] == "files.signature"
    assert found.text.startswith("not here, or other than what was signed: LICENSE; ")


PGP = b"-----BEGIN PGP SIGNATURE-----\n\niHUEABYKAB0WIQQ=\n=abcd\n-----END PGP SIGNATURE-----\n"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"rubbish", b"{}", b'{"mediaType": "application/vnd.dev.sigstore.bundle"}', PGP, b"\x88u\x04\x00\x16\n",
        b'{"mediaType": "application/vnd.dev.sigstore.bundle.v9+json", "verificationMaterial": {}, "envelope": {}}',
    ],
)  # fmt: skip
def test_a_signature_of_an_unknown_form_accuses_nobody(release: Path, content: bytes) -> None:
    (release / "model.sig").write_bytes(content)
    row = audited(release)["files.signature"]
    assert (row.answer, row.grade) == ("unknown", Grade.CLAIMED)
    assert row.reason.startswith("not a signature that is read here: model.sig")
    found = contradictions(release)
    assert found.look == "yes" and "files.signature" not in found.rows and "model.sig" not in found.text


def test_hashes_of_parts_of_files_are_not_taken_for_missing_files(release: Path) -> None:
    sign(release)
    resources = [{"name": "model.safetensors:0:100", "algorithm": "sha256-sharded-100", "digest": "ab" * 32}]
    statement = {"predicate": {"serialization": {"method": "shards"}, "resources": resources}}
    payload = base64.b64encode(json.dumps(statement).encode()).decode()
    bundle(release, dsseEnvelope={"payload": payload, "signatures": [{"sig": "AA=="}]})
    assert audited(release)["files.signature"].answer == "unknown"
    assert contradictions(release).look == "yes"


def test_a_bundle_that_signs_nothing_is_none(release: Path) -> None:
    sign(release)
    payload = base64.b64encode(b'{"subject": [], "predicate": {"resources": []}}').decode()
    bundle(release, dsseEnvelope={"payload": payload, "signatures": [{"sig": "AA=="}]})
    assert "signs no file" in audited(release)["files.signature"].reason
    bundle(release, dsseEnvelope={"payload": payload, "signatures": [{}]})
    assert "cannot be read" in audited(release)["files.signature"].reason
    bundle(release, dsseEnvelope=None, messageSignature={"signature": "AA=="})
    row = audited(release)["files.signature"]
    assert row.answer == "unknown"
    assert "something else than a list of files" in row.reason
