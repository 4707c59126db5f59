"""Keys that sign: elliptic curves, as OpenSSF model-signing takes them.

A private key is a PEM file (PKCS #8) that only its owner may read; the public key goes beside it under the same name
with ``.pub`` and to everyone else. The fingerprint is the SHA-256 of the public key's PEM text, so ``sha256sum
KEY.pub`` prints it. A key says that the same hand signed two things, not whose hand: compare fingerprints over a
channel that you trust.

Only this module needs the library ``cryptography``, and loads it when the first key is used.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearseek.errors import UserError
from clearseek.files import sha256_bytes, writing
from clearseek.signing.tree import read_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

LONGEST_KEY = 64 * 1024
_HASHES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
"""Curve -> the hash that goes with it."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Checks signatures."""

    pem: bytes
    """As this module writes it, whatever form it was read in."""
    _key: ec.EllipticCurvePublicKey

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the PEM text in hex; bundles carry it as a hint."""
        return sha256_bytes(self.pem)

    def fits(self, signature: bytes, message: bytes) -> bool:
        """Whether the private key made this signature (DER) of this message."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(signature, message, _ecdsa(self._key.curve.name))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """Makes signatures."""

    public: PublicKey
    _key: ec.EllipticCurvePrivateKey

    def sign(self, message: bytes) -> bytes:
        """An ECDSA signature in DER."""
        return bytes(self._key.sign(message, _ecdsa(self._key.curve.name)))


def generate_key(path: Path, password: bytes | None = None) -> PublicKey:
    """Make a P-256 key: the private one at `path`, for its owner alone, the public one at `path` + ``.pub``.

    Args:
        path: New file; its folder must exist.
        password: Encrypts the private key.

    Raises:
        UserError: one of the two files exists, or the place is not writable.
    """
    serialization, ec = _library()
    key = ec.generate_private_key(ec.SECP256R1())
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    public = _public(key.public_key(), str(path))
    beside = path.with_name(path.name + ".pub")
    for file in (path, beside):
        if os.path.lexists(file):
            raise UserError(f"{file}: exists already: a key is never overwritten; choose another name")
    _create(path, private, 0o600)
    _create(beside, public.pem, 0o644)
    return public


def is_encrypted(path: Path) -> bool:
    """Whether a private key asks for a password. Raises UserError where the file cannot be read."""
    raw = read_file(path, LONGEST_KEY)
    return b"BEGIN ENCRYPTED PRIVATE KEY" in raw or b"Proc-Type: 4,ENCRYPTED" in raw


def load_private_key(path: Path, password: bytes | None = None) -> PrivateKey:
    """Read a private key (PEM; PKCS #8 or the older EC form). Raises UserError."""
    serialization, ec = _library()
    from cryptography.exceptions import UnsupportedAlgorithm

    raw = read_file(path, LONGEST_KEY)
    try:
        key = serialization.load_pem_private_key(raw, password)
    except TypeError:
        what = "is encrypted: give its password" if password is None else "is not encrypted: give no password"
        raise UserError(f"{path}: the private key {what}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UserError(f"{path}: not a private key in PEM form, or the password is wrong") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(f"{path}: not an elliptic curve key: make one with curve P-256")
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise UserError(f"{path}: others on this machine can read the private key: chmod 600 {shlex.quote(str(path))}")
    return PrivateKey(_public(key.public_key(), str(path)), key)


def load_public_key(source: Path | bytes) -> PublicKey:
    """Read a public key (PEM): a file, or its bytes. Raises UserError."""
    serialization, ec = _library()
    from cryptography.exceptions import UnsupportedAlgorithm

    where = "the public key" if isinstance(source, bytes) else str(source)
    raw = source if isinstance(source, bytes) else read_file(source, LONGEST_KEY)
    if b"PRIVATE KEY" in raw:
        raise UserError(f"{where}: a private key where the public one is asked for: keep it to yourself")
    try:
        key = serialization.load_pem_public_key(raw)
    except (ValueError, UnsupportedAlgorithm):
        raise UserError(f"{where}: not a public key in PEM form") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise UserError(f"{where}: not an elliptic curve key; only P-256, P-384 and P-521 are supported")
    return _public(key, where)


def _library() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        raise UserError("signatures need the library cryptography: pip install 'clearseek[release]'") from None
    return serialization, ec


def _ecdsa(curve: str) -> ec.ECDSA:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.ECDSA(getattr(hashes, _HASHES[curve])())


def _public(key: ec.EllipticCurvePublicKey, where: str) -> PublicKey:
    serialization, _ = _library()
    if key.curve.name not in _HASHES:
        raise UserError(f"{where}: curve {key.curve.name} is not supported; use P-256, P-384 or P-521")
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(bytes(pem), key)


def _create(path: Path, data: bytes, mode: int) -> None:
    # Exclusive, and closed to others from its first moment: the file never exists with wider rights.
    with writing(path, len(data)):
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except FileExistsError:
            raise UserError(f"{path}: exists already: a key is never overwritten; choose another name") from None
        except FileNotFoundError:
            raise UserError(f"{path}: its folder does not exist: make it first") from None
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)
