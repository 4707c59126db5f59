"""Signatures over folders. ``fixtures/oms`` was made by OpenSSF's model-signing 1.1.1 with keys thrown away since:
``model_signing sign key release --private_key p256.pem --signature p256.sig``, and the same with a P-384 key."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clearseek.errors import UserError
from clearseek.signing.dsse import sign_statement, verify_statement
from clearseek.signing.folder import PREDICATE_TYPE, Verification, root_digest, sign_folder, verify_folder
from clearseek.signing.keys import PrivateKey, generate_key, load_private_key, load_public_key
from clearseek.signing.manifest import MANIFEST, SIGNATURE, build

pytest.importorskip("cryptography", reason="pip install 'clearseek[release]'")

OMS = Path(__file__).parents[1] / "fixtures" / "oms"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PARTS = [
    ("subject",), ("subject", 0, "name"), ("subject", 0, "digest"), ("subject", 0, "digest", "sha256"), ("predicate",),
    ("predicateType",), ("predicate", "serialization"), ("predicate", "serialization", "method"),
    ("predicate", "serialization", "ignore_paths"), ("predicate", "resources"), ("predicate", "resources", 0),
    ("predicate", "resources", 0, "name"), ("predicate", "resources", 0, "digest"),
]  # fmt: skip


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> PrivateKey:
    path = tmp_path_factory.mktemp("key") / "key"
    generate_key(path)
    return load_private_key(path)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    root = tmp_path / "release"
    for name, text in {
        "config.json": "{}",
        "sub/a.bin": "aaa",
        "sub.txt": "w",
        "é <x>.md": "e",
        ".gitignore": "x",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def statement(release: Path, key: PrivateKey) -> dict[str, Any]:
    sign_folder(release, key)
    return verify_statement((release / SIGNATURE).read_bytes(), key.public)


def put(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    content = json.loads(json.dumps(content))
    inner = content
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = value
    return content


def test_a_signed_folder_verifies(release: Path, key: PrivateKey) -> None:
    (release / MANIFEST).write_bytes(build(release).to_bytes())
    assert sign_folder(release, key) == release / SIGNATURE
    result = verify_folder(release, key.public)
    assert result.ok and result.problems == ()
    assert result == Verification(key.public.fingerprint, name="release", signed=5, ignored=(".gitignore", SIGNATURE))
    assert sign_folder(release, key) == release / SIGNATURE  # again: the old signature is no content
    assert verify_folder(release, key.public).ok
    moved = release.rename(release.with_name("elsewhere"))
    assert verify_folder(moved, key.public, moved / SIGNATURE).ok


def test_resources_are_sorted_by_parts(release: Path, key: PrivateKey) -> None:
    resources = statement(release, key)["predicate"]["resources"]
    assert [each["name"] for each in resources] == ["config.json", "sub/a.bin", "sub.txt", "é <x>.md"]


def test_a_signature_elsewhere(release: Path, key: PrivateKey, tmp_path: Path) -> None:
    bundle = sign_folder(release, key, tmp_path / "out.sig")
    assert verify_folder(release, key.public, bundle).ok
    assert verify_folder(release, key.public, bundle.read_bytes()).ok
    inside = shutil.copy(bundle, release / "other.sig")
    assert verify_folder(release, key.public, inside).ok
    assert verify_folder(release, key.public, bundle).extra == ("other.sig",)


def test_what_differs_is_named(release: Path, key: PrivateKey) -> None:
    sign_folder(release, key)
    (release / "config.json").write_text("[]")
    (release / "sub.txt").unlink()
    (release / "evil.py").write_text("x")
    (release / ".gitignore").write_text("changed, but says so")
    os.mkfifo(release / "fifo")
    (release / "out").symlink_to("../../secret")
    result = verify_folder(release, key.public)
    assert not result.ok
    assert (result.missing, result.extra, result.changed) == (("sub.txt",), ("evil.py",), ("config.json",))
    assert len(result.odd) == 2 and len(result.problems) == 5
    assert result.ignored == (".gitignore", SIGNATURE)


def test_ignored_places_are_listed_when_they_hold_something(release: Path, key: PrivateKey) -> None:
    sign_folder(release, key)
    (release / "attestations").mkdir()
    (release / "attestations" / "by-others.json").write_text("{}")
    result = verify_folder(release, key.public)
    assert result.ok and result.ignored == (".gitignore", "attestations/", SIGNATURE)
    sign_folder(release, key, ignore=["sub"])
    assert set(verify_folder(release, key.public).ignored) == {SIGNATURE, "sub/"}


def test_another_key_is_a_result(release: Path, key: PrivateKey, tmp_path: Path) -> None:
    other = generate_key(tmp_path / "other")
    sign_folder(release, key)
    result = verify_folder(release, other)
    assert not result.ok and "another key" in result.invalid and result.fingerprint == other.fingerprint


def test_links_inside_are_signed_by_their_content(release: Path, key: PrivateKey) -> None:
    (release / "link").symlink_to("sub/a.bin")
    assert statement(release, key)["predicate"]["serialization"]["allow_symlinks"] is True
    assert verify_folder(release, key.public).ok


def test_what_cannot_be_signed(release: Path, key: PrivateKey, tmp_path: Path) -> None:
    (release / "out").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="absolute"):
        sign_folder(release, key)
    assert not (release / SIGNATURE).exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no file to sign"):
        sign_folder(tmp_path / "empty", key)
    with pytest.raises(UserError, match="cannot leave out"):
        sign_folder(release, key, ignore=["../x"])


def test_no_signature(release: Path, key: PrivateKey) -> None:
    with pytest.raises(UserError, match=SIGNATURE):
        verify_folder(release, key.public)
    os.mkfifo(release / SIGNATURE)
    with pytest.raises(UserError, match="regular"):
        verify_folder(release, key.public)
    with pytest.raises(UserError, match="regular"):
        verify_folder(release, key.public, release / SIGNATURE)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("predicateType",), "https://model_signing/Digests/v0.1", "not a signature over a model"),
        (("predicate", "serialization", "method"), "shards", "whole files"),
        (("predicate", "serialization", "hash_type"), "blake3", "whole files"),
        (("predicate", "serialization", "ignore_paths"), ["."], "inside the folder"),
        (("predicate", "serialization", "ignore_paths"), ["sub"], "both signed and ignored"),
        (("predicate", "resources", 0, "name"), "../config.json", "\\.\\."),
        (("predicate", "resources", 0, "name"), "/etc/passwd", "absolute"),
        (("predicate", "resources", 0, "name"), "sub.txt", "twice"),
        (("predicate", "resources", 0, "digest"), "00" * 32, "subject's digest"),
        (("predicate", "resources", 0, "digest"), "00", "64 hex"),
        (("predicate", "resources", 0, "algorithm"), "md5", "sha256"),
        (("predicate", "resources"), [], "no file"),
        (("subject", 0, "digest"), {"sha512": "00"}, "subject's digest"),
    ],
)
def test_a_signed_statement_must_still_be_one(
    release: Path, key: PrivateKey, place: tuple[Any, ...], value: Any, message: str
) -> None:
    raw = sign_statement(put(statement(release, key), place, value), key)
    with pytest.raises(UserError, match=message):
        verify_folder(release, key.public, raw)


@pytest.mark.slow
@given(place=st.sampled_from(PARTS), value=VALUES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_part_replaced(release: Path, key: PrivateKey, place: tuple[Any, ...], value: Any) -> None:
    try:
        raw = sign_statement(put(statement(release, key), place, value), key)
        result = verify_folder(release, key.public, raw)
    except UserError:
        return
    name = value if place == ("subject", 0, "name") else "release"
    unsigned = ("model.sig",) if place[-1] != "ignore_paths" else (".gitignore", "model.sig")
    if place == ("predicate", "resources", 0, "name") and value != "config.json":
        assert result.missing == (value,) and not result.ok
    elif place[-1] == "ignore_paths":
        assert set(result.extra) <= set(unsigned) and not result.changed and not result.missing
    else:
        assert result.name == name and result.ok


@pytest.mark.parametrize("curve", ["p256", "p384"])
def test_what_the_real_tool_signed_verifies(curve: str, tmp_path: Path) -> None:
    public = load_public_key(OMS / f"{curve}.pub")
    bundle = OMS / f"{curve}.sig"
    result = verify_folder(OMS / "release", public, bundle)
    assert result.ok and result.signed == 3 and result.name == "release"
    changed = shutil.copytree(OMS / "release", tmp_path / "release")
    (changed / "sub" / "weights.bin").write_text("Weights")
    assert verify_folder(changed, public, bundle).changed == ("sub/weights.bin",)
    other = load_public_key(OMS / ("p384.pub" if curve == "p256" else "p256.pub"))
    assert verify_folder(OMS / "release", other, bundle).invalid


@pytest.mark.parametrize("curve", ["p256", "p384"])
def test_our_statement_is_the_real_tools(curve: str, key: PrivateKey, tmp_path: Path) -> None:
    theirs = verify_statement((OMS / f"{curve}.sig").read_bytes(), load_public_key(OMS / f"{curve}.pub"))
    ignored = theirs["predicate"]["serialization"]["ignore_paths"]
    bundle = sign_folder(OMS / "release", key, tmp_path / "our.sig", ignore=ignored)
    ours = verify_statement(bundle.read_bytes(), key.public)
    assert ours["predicateType"] == PREDICATE_TYPE
    ignored.sort()
    assert ours == theirs
    assert (
        root_digest(each["digest"] for each in ours["predicate"]["resources"]) == ours["subject"][0]["digest"]["sha256"]
    )


def test_the_real_tool_and_this_one_agree(release: Path, key: PrivateKey, tmp_path: Path) -> None:
    signing = pytest.importorskip(
        "model_signing.signing", reason="pip install model-signing pyOpenSSL", exc_type=ImportError
    )
    verifying = pytest.importorskip("model_signing.verifying", exc_type=ImportError)
    generate_key(tmp_path / "key")
    ours = load_private_key(tmp_path / "key")
    check = verifying.Config().use_elliptic_key_verifier(public_key=tmp_path / "key.pub")
    check.verify(release, sign_folder(release, ours, tmp_path / "our.sig"))
    check.verify(release, sign_folder(release, ours))
    signing.Config().use_elliptic_key_signer(private_key=tmp_path / "key").sign(release, tmp_path / "their.sig")
    # They leave out git's files only: the signature that lies there already is content to them.
    assert verify_folder(release, ours.public, tmp_path / "their.sig").ok
    (release / "sub.txt").write_text("x")
    for bundle in (tmp_path / "our.sig", tmp_path / "their.sig"):
        assert verify_folder(release, ours.public, bundle).changed == ("sub.txt",)
        with pytest.raises(ValueError, match=r"sub\.txt"):
            check.verify(release, bundle)
