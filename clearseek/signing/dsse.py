"""Signed statements: who says what about which bytes.

Three layers, each a public standard, so that other tools can check what is made here:

- in-toto Statement v1: subjects, each with a digest, and a predicate, of a type named by an URL, that is said of them;
- DSSE envelope: the statement's bytes and a signature over their *pre-authentication encoding*, which binds the type of
  the content, so that a signature over one kind of document is none over another;
- sigstore bundle v0.3: JSON around the envelope that says with which key to check.

A bundle comes from a stranger. Nothing in it is used before the signature fits, and of what does not fit the form
exactly (a key twice, two signatures) nothing is used at all: two readers must not see two statements in it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from clearseek.errors import UserError
from clearseek.jsontext import strict_json
from clearseek.signing.keys import PrivateKey, PublicKey

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
LONGEST_BUNDLE = 64 * 2**20
"""Bytes of a bundle that are read: a statement about some 200,000 files."""


class SignatureError(UserError):
    """The signature was not made by this key, or not of these bytes."""


def sign_statement(statement: Mapping[str, Any], key: PrivateKey) -> bytes:
    """A bundle, as JSON, that holds an in-toto statement and its signature. Raises UserError if it is no statement."""
    payload = json.dumps(statement, indent=2, allow_nan=False).encode("ascii")
    read_statement(payload, "the statement")
    bundle = {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key.public.fingerprint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode("ascii"),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(key.sign(encoding(payload))).decode("ascii"), "keyid": ""}],
        },
    }
    raw = json.dumps(bundle, separators=(",", ":")).encode("ascii")
    if len(raw) > LONGEST_BUNDLE:
        raise UserError(
            f"the statement is too long: {len(raw):,} bytes of a bundle's {LONGEST_BUNDLE:,}: sign fewer files"
        )
    return raw


def verify_statement(bundle: bytes, key: PublicKey, where: str = "the bundle") -> dict[str, Any]:
    """The statement in a bundle, once its signature is found to be by this key.

    Args:
        bundle: The JSON.
        key: The public key of the one who should have signed.
        where: Starts the message of errors.

    Raises:
        SignatureError: the signature is not by this key.
        UserError: not a bundle of this kind.
    """
    payload, signature, hint = _envelope(bundle, where)
    if hint and hint != key.fingerprint:
        raise SignatureError(f"{where}: signed with another key: it names {hint[:64]}, and yours is {key.fingerprint}")
    if not key.fits(signature, encoding(payload)):
        raise SignatureError(f"{where}: the signature does not fit: other content, or not by the key {key.fingerprint}")
    return read_statement(payload, where)


def encoding(payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode("ascii"), len(payload), payload)


def _envelope(bundle: bytes, where: str) -> tuple[bytes, bytes, str]:
    """Payload, signature and the hint at the key."""
    content = strict_json(bundle, where)
    if content.get("mediaType") != BUNDLE_TYPE:
        raise UserError(f"{where}: not a sigstore bundle of version 0.3: its mediaType must be {BUNDLE_TYPE}")
    envelope, material = content.get("dsseEnvelope"), content.get("verificationMaterial")
    if not isinstance(envelope, dict) or not isinstance(material, dict):
        raise UserError(f"{where}: a bundle must have a dsseEnvelope and verificationMaterial")
    public = material.get("publicKey")
    if not isinstance(public, dict):
        raise UserError(
            f"{where}: signed with a certificate, not with a key: check it with OpenSSF's tool (model_signing verify)"
        )
    hint = public.get("hint") or ""
    if not isinstance(hint, str):
        raise UserError(f"{where}: the hint at the public key must be text")
    if envelope.get("payloadType") != PAYLOAD_TYPE:
        raise UserError(f"{where}: the envelope must hold an in-toto statement: payloadType {PAYLOAD_TYPE}")
    signatures = envelope.get("signatures")
    if not isinstance(signatures, list) or len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise UserError(f"{where}: the envelope must have exactly one signature")
    payload = _base64(envelope.get("payload"), f"{where}: the payload")
    return payload, _base64(signatures[0].get("sig"), f"{where}: the signature"), hint


def _base64(value: Any, where: str) -> bytes:
    try:
        if isinstance(value, str):
            return base64.b64decode(value, validate=True)
    except ValueError:
        pass
    raise UserError(f"{where} must be text in base64")


def read_statement(payload: bytes, where: str) -> dict[str, Any]:
    """An in-toto statement with the parts that everyone needs, which nobody signed. Raises UserError."""
    statement = strict_json(payload, where)
    if statement.get("_type") != STATEMENT_TYPE:
        raise UserError(f"{where}: not an in-toto statement of version 1: its _type must be {STATEMENT_TYPE}")
    subjects = statement.get("subject")
    if not isinstance(subjects, list) or not subjects or not all(map(_is_subject, subjects)):
        raise UserError(f"{where}: the statement must have subjects, each with a digest")
    if not isinstance(statement.get("predicateType"), str) or not isinstance(statement.get("predicate"), dict):
        raise UserError(f"{where}: the statement must have a predicateType and a predicate")
    return statement


def _is_subject(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("name", ""), str):
        return False
    digest = value.get("digest")
    return isinstance(digest, dict) and bool(digest) and all(isinstance(each, str) for each in digest.values())
