from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearseek.errors import UserError
from clearseek.files import sha256_bytes
from clearseek.signing import merkle
from clearseek.signing.hashing import hash_files
from clearseek.signing.manifest import (
    MANIFEST,
    SIGNATURE,
    Differences,
    Entry,
    Manifest,
    Proof,
    build,
    check,
    check_proof,
    compare,
    parse,
    read,
    to_hash,
)
from clearseek.signing.tree import collisions, name_problem, path_bytes, walk

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(lambda name: not name_problem(name))
ENTRIES = st.builds(Entry, NAMES, st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32).map(bytes.hex))
MANIFESTS = (
    st.lists(ENTRIES, max_size=6, unique_by=lambda entry: entry.path)
    .filter(lambda entries: not collisions(entry.path for entry in entries))
    .map(lambda entries: Manifest(tuple(sorted(entries, key=lambda entry: path_bytes(entry.path)))))
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    root = tmp_path / "release"
    for name, text in {"config.json": "{}", "weights/a.bin": "aaa", "weights.txt": "w", "é.md": "e"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def content(manifest: Manifest) -> dict[str, Any]:
    value = json.loads(manifest.to_bytes())
    assert isinstance(value, dict)
    return value


def test_a_release_has_its_manifest(release: Path) -> None:
    manifest = build(release)
    assert [entry.path for entry in manifest.files] == ["config.json", "weights.txt", "weights/a.bin", "é.md"]
    assert manifest.files[2] == Entry("weights/a.bin", 3, sha256_bytes(b"aaa"))
    (release / MANIFEST).write_bytes(manifest.to_bytes())
    (release / SIGNATURE).write_text("later")
    (release / ".git").mkdir()
    (release / ".git" / "HEAD").write_text("ref")
    assert read(release) == manifest == build(release)
    differences, tree = check(release, manifest)
    assert not differences and tree.problems == ()
    assert tree.skipped == (".git/", MANIFEST, SIGNATURE)


def test_the_root_is_what_the_page_says() -> None:
    first, second = Entry("a", 3, "11" * 32), Entry("é", 2**40, "22" * 32)
    items = [b"\x11" * 32 + bytes([0, 0, 0, 0, 0, 0, 0, 3]) + b"a", b"\x22" * 32 + (2**40).to_bytes(8) + b"\xc3\xa9"]
    assert Manifest((first, second)).root == merkle.root([merkle.leaf_hash(item) for item in items]).hex()


def test_differences_are_named(release: Path) -> None:
    manifest = build(release)
    (release / "config.json").write_text("[]")
    (release / "weights.txt").write_text("longer")
    (release / "é.md").unlink()
    (release / "new").write_text("x")
    os.mkfifo(release / "fifo")
    differences, tree = check(release, manifest)
    assert differences == Differences(("é.md",), ("new",), ("config.json",), ("weights.txt",))
    assert differences and len(differences.lines()) == 4
    assert [problem.path for problem in tree.problems] == ["fifo"]
    with pytest.raises(UserError, match="fifo"):
        build(release)


def test_only_files_of_the_right_size_are_hashed(release: Path) -> None:
    manifest = build(release)
    (release / "weights.txt").write_text("longer")
    tree = walk(release)
    chosen = to_hash(manifest, tree)
    assert [file.path for file in chosen] == ["config.json", "weights/a.bin", "é.md"]
    assert compare(manifest, tree, hash_files(release, chosen)).resized == ("weights.txt",)


@pytest.mark.parametrize("path", ["/x", "../x", "a/../b", "", "."])
def test_what_is_left_out_lies_inside(release: Path, path: str) -> None:
    with pytest.raises(UserError, match="cannot leave out"):
        build(release, exclude=[path])


@given(MANIFESTS)
def test_it_reads_what_it_writes(manifest: Manifest) -> None:
    assert parse(manifest.to_bytes()) == manifest
    assert parse(manifest.to_bytes()).to_bytes() == manifest.to_bytes()


@given(MANIFESTS.filter(lambda manifest: bool(manifest.files)), st.data())
def test_a_changed_entry_changes_the_root_and_breaks_its_proof(manifest: Manifest, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(manifest.files) - 1))
    entry, proof = manifest.files[index], manifest.proof(index)
    assert check_proof(entry, proof, manifest.root)
    others = [
        replace(entry, size=entry.size ^ 1),
        replace(entry, path=entry.path + "x"),
        replace(entry, sha256=sha256_bytes(entry.sha256.encode())),
    ]
    for other in others:
        files = (*manifest.files[:index], other, *manifest.files[index + 1 :])
        assert Manifest(files).root != manifest.root
        assert not check_proof(other, proof, manifest.root)
    value = content(manifest)
    value["files"][index]["size"] = entry.size ^ 1
    with pytest.raises(UserError, match="the root does not belong"):
        parse(json.dumps(value).encode())


def test_malformed_proofs_do_not_hold() -> None:
    manifest = Manifest((Entry("a", 1, "11" * 32), Entry("b", 2, "22" * 32)))
    entry, proof = manifest.files[0], manifest.proof(0)
    assert check_proof(entry, proof, manifest.root)
    for wrong in (
        replace(proof, path=("zz",)), replace(proof, path=("11",)), replace(proof, index=1), replace(proof, count=1),
        replace(proof, path=()), replace(proof, index=2), replace(proof, count=0),
    ):  # fmt: skip
        assert not check_proof(entry, wrong, manifest.root)
    assert not check_proof(entry, proof, "no hex")
    assert not check_proof(entry, Proof("0", None, (1,)), manifest.root)  # type: ignore[arg-type]
    assert not check_proof(replace(entry, sha256="11 " * 32), proof, manifest.root)
    assert not check_proof(replace(entry, size=-1), proof, manifest.root)
    assert not check_proof(replace(entry, sha256="xy"), proof, manifest.root)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 2, "version 1"), ("version", True, "version 1"), ("version", "1", "version 1"),
        ("files", {}, "list"), ("files", [1], "path, size"), ("left_out", "x", "list"), ("left_out", [1], "list"),
        ("left_out", ["b", "a"], "before"), ("left_out", ["a", "a"], "before"), ("left_out", ["../x"], "\\.\\."),
        ("left_out", ["a"], "both"), ("root", "0" * 64, "root"), ("root", None, "root"), ("more", 1, "keys"),
    ],
)  # fmt: skip
def test_a_wrong_manifest_is_refused(key: str, value: Any, message: str) -> None:
    manifest = Manifest((Entry("a/b", 1, "11" * 32),))
    with pytest.raises(UserError, match=message):
        parse(json.dumps(content(manifest) | {key: value}).encode(), "where")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("path", "../a"), ("path", "/a"), ("path", 1), ("path", "a\u202e"), ("path", "a\ud800"), ("size", -1),
        ("size", 1.0), ("size", True), ("size", 2**63), ("sha256", "11" * 31), ("sha256", "AA" * 32),
        ("sha256", None), ("more", 1), ("path", "a" * 5000),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_refused(key: str, value: Any) -> None:
    wrong = content(Manifest((Entry("a", 1, "11" * 32),)))
    wrong["files"][0][key] = value
    with pytest.raises(UserError, match=r"^where: "):
        parse(json.dumps(wrong).encode(), "where")


@pytest.mark.parametrize("paths", [["b", "a"], ["a", "a"], ["A", "a"], ["caf\u00e9", "cafe\u0301"]])
def test_order_and_names_must_be_unambiguous(paths: list[str]) -> None:
    manifest = Manifest(tuple(Entry(path, 1, "11" * 32) for path in paths))
    with pytest.raises(UserError, match=r"before|same name"):
        parse(manifest.to_bytes())


def test_keys_may_not_repeat() -> None:
    raw = Manifest((Entry("a", 1, "11" * 32),)).to_bytes()
    with pytest.raises(UserError, match="twice"):
        parse(raw.replace(b'"size": 1', b'"size": 1, "size": 1'))


@given(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_refused(raw: bytes) -> None:
    with pytest.raises(UserError):
        parse(raw)


@given(MANIFESTS, st.data())
def test_a_damaged_manifest_is_refused_or_the_same(manifest: Manifest, data: st.DataObject) -> None:
    raw = manifest.to_bytes()
    where = data.draw(st.integers(0, len(raw) - 1))
    damaged = raw[:where] + data.draw(st.binary(max_size=2)) + raw[where + 1 :]
    with suppress(UserError):
        assert parse(damaged).files == manifest.files
