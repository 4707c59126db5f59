from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import pytest

from clearseek.errors import UserError
from clearseek.files import sha256_file
from clearseek.signing.hashing import BUFFER, hash_files
from clearseek.signing.tree import File, walk


def fill(root: Path, sizes: list[int]) -> None:
    for number, size in enumerate(sizes):
        (root / f"{number:02}").write_bytes(bytes([number]) * size)


@pytest.mark.parametrize("threads", [1, 3, None])
def test_hashes_are_those_of_the_files(tmp_path: Path, threads: int | None) -> None:
    fill(tmp_path, [0, 1, BUFFER - 1, BUFFER, BUFFER + 1, 20 * BUFFER, 7])
    told: list[tuple[int, int]] = []
    files = walk(tmp_path).files
    hashes = hash_files(tmp_path, files, lambda done, total: told.append((done, total)), threads)
    assert hashes == {file.path: sha256_file(tmp_path / file.path) for file in files}
    assert list(hashes) == [file.path for file in files]
    total = sum(file.size for file in files)
    assert told == sorted(told) and told[-1] == (total, total)


def test_nothing_to_hash(tmp_path: Path) -> None:
    assert hash_files(tmp_path, []) == {}


@pytest.mark.parametrize("size", [3, 5])
def test_a_file_that_changed_since_the_walk(tmp_path: Path, size: int) -> None:
    (tmp_path / "x").write_bytes(b"1" * size)
    with pytest.raises(UserError, match="x: changed while it was read"):
        hash_files(tmp_path, [File("x", 4)])


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    fill(tmp_path, [5, 5])
    files = walk(tmp_path).files
    (tmp_path / "01").unlink()
    with pytest.raises(UserError, match="01: cannot read"):
        hash_files(tmp_path, files)


def test_an_error_stops_the_other_threads(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**40)  # a hole: takes no space, and minutes to hash
    start = time.process_time()
    with pytest.raises(UserError, match="gone"):
        hash_files(tmp_path, [*walk(tmp_path).files, File("gone", 1)], threads=2)
    assert time.process_time() - start < 20


def test_interruption_stops_all_threads(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**40)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hash_files(tmp_path, walk(tmp_path).files, interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hash")]


def test_links_are_hashed_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"content")
    (tmp_path / "y").symlink_to("x")
    assert set(hash_files(tmp_path, walk(tmp_path).files).values()) == {hashlib.sha256(b"content").hexdigest()}
