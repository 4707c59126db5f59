from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from clearseek.errors import UserError
from clearseek.files import sha256_file
from clearseek.signing.keys import generate_key, load_private_key, load_public_key

pytest.importorskip("cryptography", reason="pip install 'clearseek[release]'")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> tuple[bytes, bytes]:
    """Private and public."""
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private, public


@pytest.mark.parametrize("umask", [0, 0o077])
def test_a_new_key(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        public = generate_key(tmp_path / "key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert (tmp_path / "key").read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert public.fingerprint == sha256_file(tmp_path / "key.pub")
    private = load_private_key(tmp_path / "key")
    assert private.public.pem == load_public_key(tmp_path / "key.pub").pem == public.pem
    signature = private.sign(b"message")
    assert public.fits(signature, b"message")
    assert not public.fits(signature, b"another") and not public.fits(b"", b"message") and not public.fits(b"x", b"")


@pytest.mark.parametrize("taken", ["key", "key.pub"])
def test_a_key_is_never_overwritten(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).symlink_to("nowhere")
    with pytest.raises(UserError, match="never overwritten"):
        generate_key(tmp_path / "key")
    assert [path.name for path in tmp_path.iterdir()] == [taken]


def test_a_key_needs_its_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="folder does not exist"):
        generate_key(tmp_path / "no" / "key")


def test_a_key_with_a_password(tmp_path: Path) -> None:
    public = generate_key(tmp_path / "key", b"open")
    assert load_private_key(tmp_path / "key", b"open").public.fingerprint == public.fingerprint
    with pytest.raises(UserError, match="password"):
        load_private_key(tmp_path / "key")
    with pytest.raises(UserError, match="password is wrong"):
        load_private_key(tmp_path / "key", b"shut")
    generate_key(tmp_path / "free")
    with pytest.raises(UserError, match="give no password"):
        load_private_key(tmp_path / "free", b"open")


def write_private(path: Path, content: bytes) -> None:
    path.touch(0o600)
    path.write_bytes(content)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_curves(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    private, public = pem(ec.generate_private_key(curve))
    write_private(tmp_path / "key", private)
    key = load_private_key(tmp_path / "key")
    assert load_public_key(public).fits(key.sign(b"m"), b"m")
    other = load_public_key(pem(ec.generate_private_key(curve))[1])
    assert not other.fits(key.sign(b"m"), b"m")


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256K1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
)
def test_other_kinds_of_keys_are_refused(
    tmp_path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
) -> None:
    private, public = pem(key)
    write_private(tmp_path / "key", private)
    for load in (lambda: load_private_key(tmp_path / "key"), lambda: load_public_key(public)):
        with pytest.raises(UserError, match="curve"):
            load()


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    generate_key(tmp_path / "key")
    with pytest.raises(UserError, match="keep it to yourself"):
        load_public_key(tmp_path / "key")
    with pytest.raises(UserError, match="not a private key"):
        load_private_key(tmp_path / "key.pub")
    for raw in (b"", b"text", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", b"\xff" * 99):
        with pytest.raises(UserError, match="not a public key"):
            load_public_key(raw)
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path / "nothing", tmp_path):
        with pytest.raises(UserError, match=r"regular|cannot read"):
            load_private_key(path)
