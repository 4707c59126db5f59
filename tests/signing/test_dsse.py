from __future__ import annotations

import base64
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearseek.errors import UserError
from clearseek.signing.dsse import (
    PAYLOAD_TYPE,
    STATEMENT_TYPE,
    SignatureError,
    encoding,
    sign_statement,
    verify_statement,
)
from clearseek.signing.keys import PrivateKey, generate_key, load_private_key, load_public_key

pytest.importorskip("cryptography", reason="pip install 'clearseek[release]'")

STATEMENT = {
    "_type": STATEMENT_TYPE,
    "subject": [{"name": "release", "digest": {"sha256": "11" * 32}}],
    "predicateType": "https://in-toto.io/attestation/test-result/v0.1",
    "predicate": {"result": "PASSED", "configuration": [], "note": "grün"},
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PARTS = [
    ("mediaType",), ("verificationMaterial",), ("verificationMaterial", "publicKey"), ("dsseEnvelope",),
    ("verificationMaterial", "publicKey", "hint"), ("dsseEnvelope", "payload"), ("dsseEnvelope", "payloadType"),
    ("dsseEnvelope", "signatures"), ("dsseEnvelope", "signatures", 0), ("dsseEnvelope", "signatures", 0, "sig"),
]  # fmt: skip


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> PrivateKey:
    path = tmp_path_factory.mktemp("key") / "key"
    generate_key(path)
    return load_private_key(path)


def with_payload(key: PrivateKey, payload: bytes) -> bytes:
    """A bundle whose signature fits, whatever the payload is."""
    bundle = json.loads(sign_statement(STATEMENT, key))
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(key.sign(encoding(payload))).decode()
    return json.dumps(bundle).encode()


def put(bundle: Any, place: tuple[Any, ...], value: Any) -> bytes:
    inner = bundle
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = value
    return json.dumps(bundle).encode()


def test_a_statement_comes_back(key: PrivateKey) -> None:
    assert verify_statement(sign_statement(STATEMENT, key), key.public) == STATEMENT


def test_the_encoding_is_that_of_the_specification() -> None:
    # Protocol of DSSE 1.0: "DSSEv1" SP LEN(type) SP type SP LEN(body) SP body
    assert encoding(b"hello world") == b"DSSEv1 28 application/vnd.in-toto+json 11 hello world"
    assert len(PAYLOAD_TYPE) == 28


def test_another_key_does_not_fit(key: PrivateKey, tmp_path: Path) -> None:
    other = generate_key(tmp_path / "other")
    bundle = json.loads(sign_statement(STATEMENT, key))
    with pytest.raises(SignatureError, match="another key"):
        verify_statement(json.dumps(bundle).encode(), other)
    for hint in ("", None, other.fingerprint):
        with pytest.raises(SignatureError, match="does not fit"):
            verify_statement(put(bundle, ("verificationMaterial", "publicKey", "hint"), hint), other)
    assert verify_statement(put(bundle, ("verificationMaterial", "publicKey"), {}), key.public) == STATEMENT


def test_other_content_does_not_fit(key: PrivateKey) -> None:
    bundle = json.loads(sign_statement(STATEMENT, key))
    payload = json.dumps(STATEMENT | {"predicate": {"result": "FAILED"}}).encode()
    with pytest.raises(SignatureError, match="does not fit"):
        verify_statement(put(bundle, ("dsseEnvelope", "payload"), base64.b64encode(payload).decode()), key.public)


@pytest.mark.parametrize(
    "statement",
    [
        {}, STATEMENT | {"_type": "https://in-toto.io/Statement/v0.1"}, STATEMENT | {"subject": []},
        STATEMENT | {"subject": [{"name": "x"}]}, STATEMENT | {"subject": [{"name": "x", "digest": {}}]},
        STATEMENT | {"subject": [{"name": 1, "digest": {"sha256": "x"}}]}, STATEMENT | {"predicate": []},
        STATEMENT | {"predicateType": 1}, STATEMENT | {"subject": [{"name": "x", "digest": {"sha256": 1}}]},
    ],
)  # fmt: skip
def test_what_is_no_statement_is_neither_signed_nor_believed(key: PrivateKey, statement: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        sign_statement(statement, key)
    with pytest.raises(UserError):
        verify_statement(with_payload(key, json.dumps(statement).encode()), key.public)


def test_two_readers_see_one_statement(key: PrivateKey) -> None:
    twice = json.dumps(STATEMENT)[:-1] + ', "predicate": {}}'
    with pytest.raises(UserError, match="twice"):
        verify_statement(with_payload(key, twice.encode()), key.public)
    bundle = json.loads(sign_statement(STATEMENT, key))
    signature = bundle["dsseEnvelope"]["signatures"][0]
    with pytest.raises(UserError, match="exactly one"):
        verify_statement(put(bundle, ("dsseEnvelope", "signatures"), [signature, signature]), key.public)


def test_a_certificate_is_named_as_what_is_not_supported(key: PrivateKey) -> None:
    bundle = json.loads(sign_statement(STATEMENT, key))
    with pytest.raises(UserError, match="certificate"):
        verify_statement(put(bundle, ("verificationMaterial",), {"x509CertificateChain": {}}), key.public)


@given(place=st.sampled_from(PARTS), value=VALUES)
@settings(max_examples=200, deadline=None)
def test_a_part_replaced(key: PrivateKey, place: tuple[Any, ...], value: Any) -> None:
    raw = put(json.loads(sign_statement(STATEMENT, key)), place, value)
    try:
        assert verify_statement(raw, key.public) == STATEMENT
    except UserError:
        return
    assert place[:2] == ("verificationMaterial", "publicKey")


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_bytes_replaced(data: st.DataObject) -> None:
    oms = Path(__file__).parents[1] / "fixtures" / "oms"
    raw, public = (oms / "p256.sig").read_bytes(), load_public_key(oms / "p256.pub")
    where = data.draw(st.integers(0, len(raw) - 1))
    damaged = raw[:where] + data.draw(st.binary(max_size=3)) + raw[where + data.draw(st.integers(0, 3)) :]
    with suppress(UserError):
        assert verify_statement(damaged, public) == verify_statement(raw, public)


@given(st.binary(max_size=80) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_refused(key: PrivateKey, raw: bytes) -> None:
    with pytest.raises(UserError):
        verify_statement(raw, key.public)
    with pytest.raises(UserError):
        verify_statement(with_payload(key, raw), key.public)


def test_deep_nesting_is_refused(key: PrivateKey) -> None:
    for raw in (b"[" * 200_000, b'{"a":' * 200_000, b'{"a": ' + b"9" * 10_000 + b"}"):
        with pytest.raises(UserError):
            verify_statement(raw, key.public)
