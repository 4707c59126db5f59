from __future__ import annotations

import os
from pathlib import Path

import pytest

from clearseek.errors import UserError
from clearseek.openness.hashing import hash_file, hash_files
from clearseek.openness.tree import read_bytes, walk


def test_files_are_listed_by_path(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/c").write_bytes(b"12")
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/x").write_bytes(b"1")
    tree = walk(tmp_path)
    assert [(file.path, file.size) for file in tree.files] == [("a", 1), ("b/c", 2)]
    assert tree.problems == ()


def test_nothing_outside_is_read(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (root / "link").symlink_to(outside / "secret")
    (root / "folder").symlink_to(outside)
    os.mkfifo(root / "pipe")
    tree = walk(root)
    assert tree.files == ()
    assert {problem.path for problem in tree.problems} == {"link", "folder", "pipe"}
    for path in ("link", "folder/secret", "../outside/secret", "/etc/passwd", "pipe", "", "a//b", "./x", "a\0b"):
        with pytest.raises(UserError):
            read_bytes(root, path, 10)
        with pytest.raises(UserError):
            hash_file(root, path)


def test_a_file_that_becomes_a_link_is_not_followed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("secret")
    (root / "file").write_text("mine")
    walk(root)
    (root / "file").unlink()
    (root / "file").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="not followed"):
        read_bytes(root, "file", 10)


def test_very_deep_folders_are_reported(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(60):
        deep = deep / "d"
    deep.mkdir(parents=True)
    assert "folders deep" in walk(tmp_path).problems[0].what


def test_pieces_and_hashes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(256)) * 10_000)
    (tmp_path / "b").write_bytes(b"")
    assert read_bytes(tmp_path, "a", 3, 255) == b"\xff\x00\x01"
    assert len(read_bytes(tmp_path, "a", 10**9)) == 2_560_000
    seen: list[int] = []
    hashes = hash_files(tmp_path, walk(tmp_path).files, seen.append)
    assert hashes["b"] == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert sum(seen) == 2_560_000
    assert hashes == hash_files(tmp_path, walk(tmp_path).files, threads=1)
