"""Files that are whole or not there: under full disks, missing rights, and kills."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from clearseek.errors import UserError
from clearseek.files import (
    amount,
    atomic_file,
    atomic_folder,
    remove_folder,
    remove_leftovers,
    sha256_bytes,
    sha256_file,
    write_atomic,
)

LEFTOVER = "." + "{}" + ".0123456789abcdef.{}"


def test_write_creates_parents_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "file.txt"
    write_atomic(file, "old")
    write_atomic(file, "grüße".encode())
    assert file.read_text(encoding="utf-8") == "grüße"
    assert [entry.name for entry in file.parent.iterdir()] == ["file.txt"]


def test_a_file_written_in_pieces_appears_at_the_end(tmp_path: Path) -> None:
    file = tmp_path / "a" / "file.bin"
    write_atomic(file, "old")
    with atomic_file(file, 6) as stream:
        stream.write(b"one")
        stream.flush()
        assert file.read_bytes() == b"old"
        assert remove_leftovers(tmp_path) == []
        os.pwrite(stream.fileno(), b"two", 3)
    assert file.read_bytes() == b"onetwo"
    with pytest.raises(RuntimeError), atomic_file(file) as stream:
        stream.write(b"half")
        raise RuntimeError
    assert [entry.name for entry in file.parent.iterdir()] == ["file.bin"]
    assert file.read_bytes() == b"onetwo"


def test_text_is_utf8_and_mode_follows_umask(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        write_atomic(tmp_path / "x", "é")
    finally:
        os.umask(old)
    assert (tmp_path / "x").read_bytes() == b"\xc3\xa9"
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "read-only for this user"),
        (errno.EROFS, "mounted read-only"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EIO, "input/output error"),
    ],
)
def test_failed_write_is_readable_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, says: str
) -> None:
    file = tmp_path / "file.txt"
    write_atomic(file, "old")

    def fail(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=says) as caught:
        write_atomic(file, "new")
    assert str(file) in str(caught.value)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_full_disk_names_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=r"1,234 bytes are needed and [\d,]+ are free"):
        write_atomic(tmp_path / "f", b"x" * 1234)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KiB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True).returncode
    ):
        pytest.skip("cannot mount a small file system here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    write_atomic(small_disk / "file", b"old")
    with pytest.raises(UserError, match="100,000 bytes are needed"):
        write_atomic(small_disk / "file", b"x" * 100_000)
    with pytest.raises(UserError, match="the disk is full"), atomic_folder(small_disk / "folder") as folder:
        (folder / "f").write_bytes(b"x" * 100_000)
    assert (small_disk / "file").read_bytes() == b"old"
    assert [entry.name for entry in small_disk.iterdir()] == ["file"]


def test_a_disk_that_is_really_read_only(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(UserError, match="mounted read-only"):
        write_atomic(small_disk / "file", b"x")
    with pytest.raises(UserError, match="mounted read-only"), atomic_folder(small_disk / "folder"):
        pass


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="a file stands where a folder is needed"):
        write_atomic(tmp_path / "file" / "inner", "x")


def test_unrelated_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "f"):
        (tmp_path / "absent").read_text()
    assert list(tmp_path.iterdir()) == []


def test_folder_appears_whole_and_only_at_the_end(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "x").write_text("1")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "sub" / "x").read_text() == "1"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_folder_is_not_replaced_unless_told(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="already exists"), atomic_folder(tmp_path / "out"):
        pass
    with atomic_folder(tmp_path / "out", replace=True) as folder:
        (folder / "x").write_text("2")
    assert (tmp_path / "out" / "x").read_text() == "2"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_folder_that_appeared_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="already exists"), atomic_folder(tmp_path / "out"):
        (tmp_path / "out").mkdir()
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_failure_keeps_the_old_folder(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "x").write_text("old")
    with pytest.raises(KeyError), atomic_folder(tmp_path / "out", replace=True) as folder:
        (folder / "x").write_text("new")
        raise KeyError
    assert (tmp_path / "out" / "x").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_remove_folder(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    remove_folder(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_the_dead_go_and_the_living_stay(tmp_path: Path) -> None:
    (tmp_path / LEFTOVER.format("f", "new")).write_text("half")
    (tmp_path / "sub" / LEFTOVER.format("g", "new") / "inner").mkdir(parents=True)
    (tmp_path / ".hidden.new").write_text("not ours")
    with atomic_folder(tmp_path / "out") as living:
        removed = remove_leftovers(tmp_path)
        assert living.exists()
    assert {path.name for path in removed} == {LEFTOVER.format("f", "new"), LEFTOVER.format("g", "new")}
    assert {path.name for path in tmp_path.iterdir()} == {"sub", ".hidden.new", "out"}
    assert remove_leftovers(tmp_path / "absent") == []


def test_interrupted_replacement_gets_the_old_folder_back(tmp_path: Path) -> None:
    aside = tmp_path / LEFTOVER.format("out", "old")
    aside.mkdir()
    (aside / "x").write_text("old")
    (tmp_path / LEFTOVER.format("out", "new")).mkdir()
    remove_leftovers(tmp_path)
    assert (tmp_path / "out" / "x").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_finished_replacement_drops_the_old_folder(tmp_path: Path) -> None:
    (tmp_path / LEFTOVER.format("out", "old")).mkdir()
    (tmp_path / "out").mkdir()
    remove_leftovers(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def _write_forever(file: str) -> None:
    for number in range(1_000_000):
        write_atomic(Path(file), f"{number % 10}" * 200_000)


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path, processes: ForkServerContext) -> None:
    file = tmp_path / "file"
    for delay in (0.02, 0.05, 0.09):
        file.unlink(missing_ok=True)
        writer = processes.Process(target=_write_forever, args=(str(file),))
        writer.start()
        while not file.exists() and writer.is_alive():
            time.sleep(0.001)
        time.sleep(delay)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        data = file.read_bytes()
        assert len(data) == 200_000
        assert len(set(data)) == 1
        remove_leftovers(tmp_path)
        assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EIO])
def test_a_folder_that_cannot_be_forced_to_the_disk_is_no_error(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SMB, FUSE and shared folders of virtual machines have no fsync of a folder; a disk that fails is an error."""
    fsync = os.fsync

    def refuse_folders(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    if code == errno.EIO:
        with pytest.raises(UserError, match="input/output error"), atomic_folder(tmp_path / "folder") as folder:
            pass
        return
    write_atomic(tmp_path / "file", "x")
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "x").write_text("1")
    remove_folder(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 bytes"), (1023, "1,023 bytes"), (1024, "1.0 KiB"), (3 * 2**20, "3.0 MiB"), (2**40 * 1500, "1,500.0 TiB")],
)
def test_amounts_are_in_units_that_fit(count: int, shown: str) -> None:
    assert amount(count) == shown


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert sha256_bytes(b"abc") == sha256_file(tmp_path / "f") == known
