"""A sigstore bundle, read before anybody's key is tried on it: with what it was signed, and over which files."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, Final

from clearseek.errors import UserError
from clearseek.jsontext import strict_json

_SIGSTORE: Final = "application/vnd.dev.sigstore.bundle"


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a signature says, before anybody's key was tried on it."""

    by: str
    check: str
    """What tells whose it is."""
    digests: dict[str, str]
    """File -> SHA-256 in hex; empty where another hash was taken. No entry where it signs something else than files."""
    ignored: tuple[str, ...]


def read_bundle(raw: bytes, where: str) -> Bundle:
    """Read a sigstore bundle over files. Raises UserError where it is none."""
    content = strict_json(raw, where)
    envelope, material = content.get("dsseEnvelope"), content.get("verificationMaterial")
    if not str(content.get("mediaType")).startswith(_SIGSTORE) or not isinstance(material, dict):
        raise UserError(f"{where}: no sigstore bundle, so no signature that is known here")
    key = "publicKey" in material
    by = "a key" if key else "a certificate of sigstore"
    check = "the publisher's public key (clearseek verify --key)"
    if not key:
        check = "its certificate (model_signing verify sigstore, with the identity that should have signed)"
    if "messageSignature" in content and envelope is None:
        return Bundle(by, check, {}, ())
    if not isinstance(envelope, dict):
        raise UserError(f"{where}: a sigstore bundle without a statement or a signature")
    signatures, payload = envelope.get("signatures"), envelope.get("payload")
    try:
        signed = [base64.b64decode(each["sig"], validate=True) for each in signatures]  # type: ignore[union-attr]
        statement = strict_json(base64.b64decode(payload, validate=True), where)  # type: ignore[arg-type]
    except (TypeError, KeyError, ValueError):
        raise UserError(f"{where}: a sigstore bundle whose signature or statement cannot be read") from None
    predicate = statement.get("predicate")
    if not isinstance(predicate, dict) or "resources" not in predicate:
        return Bundle(by, check, {}, ())
    listed, settings = predicate["resources"], predicate.get("serialization")
    if isinstance(settings, dict) and settings.get("method", "files") != "files":
        return Bundle(by, check, {}, ())  # hashes of parts of files
    digests = dict(map(_signed_file, listed)) if isinstance(listed, list) and all(map(_is_named, listed)) else {}
    if not signed or not all(signed) or not digests:
        raise UserError(f"{where}: a sigstore bundle that signs no file")
    ignored = settings.get("ignore_paths") if isinstance(settings, dict) else None
    paths = tuple(each for each in ignored if isinstance(each, str)) if isinstance(ignored, list) else ()
    return Bundle(by, check, digests, paths)


def _is_named(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("name"), str)


def _signed_file(value: dict[str, Any]) -> tuple[str, str]:
    digest = value.get("digest")
    if isinstance(digest, dict):
        digest = digest.get("sha256")
    other = value.get("algorithm", "sha256") != "sha256" or not isinstance(digest, str)
    return value["name"], "" if other else str(digest)
