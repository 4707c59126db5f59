"""Locks on file systems that have them, on NFS, and on those that have none."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from clearseek import locks
from clearseek.errors import UserError
from clearseek.files import atomic_file, atomic_folder, remove_leftovers

Fake = Callable[[pytest.MonkeyPatch], None]
_flock = fcntl.flock


def local(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is here."""


def nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks only what is open for writing."""

    def flock(file: int | IO[bytes], operation: int) -> None:
        handle = file if isinstance(file, int) else file.fileno()
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        _flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", flock)


def without(code: int) -> Fake:
    """No locks at all."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        def flock(file: object, operation: int) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(fcntl, "flock", flock)

    return patch


NONE = [without(code) for code in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL)]
KINDS = pytest.mark.parametrize("kind", [local, nfs, *NONE])


@pytest.fixture(scope="module")
def dead() -> str:
    """The token of a process that ran here and has ended."""
    code = "from clearseek.locks import token; print(token())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def elsewhere() -> str:
    """A token from another machine."""
    mine = locks.token()
    return f"{int(mine[:5], 16) ^ 1:05x}{mine[5:]}"


def test_a_token_says_whether_its_process_lives(dead: str) -> None:
    assert locks.lives(locks.token()) is True
    assert locks.lives(dead) is False
    assert locks.lives(elsewhere()) is None and locks.lives("") is None and locks.lives("z" * 16) is None
    assert locks.token() != locks.token()


@KINDS
def test_a_claim_is_one_processs_and_leaves_nothing(
    kind: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kind(monkeypatch)
    file = tmp_path / "lock"
    with locks.claim(file) as ours:
        assert ours is True
        with locks.claim(file) as second:
            assert second is False
        with (
            pytest.raises(UserError, match="the run: another process is writing here"),
            locks.exclusive(file, "the run"),
        ):
            pytest.fail("two are in it")
    assert list(tmp_path.iterdir()) == []


@KINDS
def test_what_the_dead_held_is_free(kind: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dead: str) -> None:
    kind(monkeypatch)
    (tmp_path / "lock").write_text(dead)
    with locks.claim(tmp_path / "lock") as ours:
        assert ours is True


@pytest.mark.parametrize("kind", NONE)
@pytest.mark.parametrize("content", ["", "elsewhere"])
def test_what_cannot_be_known_is_refused_with_its_file(
    kind: Fake, content: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kind(monkeypatch)
    (tmp_path / "lock").write_text(elsewhere() if content else "")
    with pytest.raises(UserError, match=r"no locks to say whether it still does: if it has ended, delete .*lock"):
        locks.exclusive(tmp_path / "lock", "the run").__enter__()
    assert (tmp_path / "lock").exists()


@KINDS
def test_living_writers_keep_what_they_write(kind: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kind(monkeypatch)
    with atomic_folder(tmp_path / "folder") as folder, atomic_file(tmp_path / "file") as file:
        file.write(b"half")
        assert remove_leftovers(tmp_path) == []
        assert folder.exists()
        (folder / "x").touch()
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "file"}


@KINDS
def test_what_the_dead_left_is_cleared(kind: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dead: str) -> None:
    kind(monkeypatch)
    (tmp_path / f".file.{dead}.new").write_text("half")
    (tmp_path / f".folder.{dead}.lock").write_text(dead)
    (tmp_path / f".folder.{dead}.new").mkdir()
    (tmp_path / f".folder.{dead}.old").mkdir()
    (tmp_path / f".folder.{dead}.old/kept").touch()
    remove_leftovers(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["folder", "folder/kept"]


@pytest.mark.parametrize("kind", NONE)
def test_what_another_machine_may_be_writing_is_left_and_named(
    kind: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kind(monkeypatch)
    token = elsewhere()
    (tmp_path / f".file.{token}.new").write_text("half")
    (tmp_path / f".folder.{token}.lock").write_text(token)
    (tmp_path / f".folder.{token}.new").mkdir()
    before, left = sorted(tmp_path.iterdir()), []
    assert remove_leftovers(tmp_path, left.append) == []
    assert sorted(tmp_path.iterdir()) == before
    assert {path.name for path in left} == {f".file.{token}.new", f".folder.{token}.new"}


def test_a_writer_whose_lock_was_taken_while_it_was_made_takes_another_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rivals: list[IO[bytes]] = []

    def flock(file: int | IO[bytes], operation: int) -> None:
        if not rivals:  # somebody who looks for leftovers comes between the file and its lock
            (made,) = tmp_path.iterdir()
            rivals.append(made.open("r+b"))
            _flock(rivals[0], operation)
        _flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with atomic_folder(tmp_path / "folder") as folder:
        rivals[0].close()
        assert remove_leftovers(tmp_path) == []
        assert folder.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
