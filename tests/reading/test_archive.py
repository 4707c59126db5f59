"""Archives of strangers: looked into within bounds, and never unpacked onto the disk."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearseek.errors import UserError
from clearseek.reading import archive
from clearseek.reading.archive import members
from clearseek.reading.source import Folder


def tar(*files: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as out:
        for member, content in files:
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def looked_into(tmp_path: Path, raw: bytes, limit: int = 100) -> list[tuple[str, bytes]]:
    (tmp_path / "release").mkdir(exist_ok=True)
    (tmp_path / "release/a.tar.gz").write_bytes(raw)
    return list(members(Folder(tmp_path / "release"), "a.tar.gz", limit))


def link(name: str, target: str, kind: bytes) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def test_regular_files_alone_and_their_beginnings(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    raw = tar(
        (tarfile.TarInfo("a/train.py"), b"x" * 300),
        link("a/link", str(tmp_path / "secret"), tarfile.SYMTYPE),
        link("a/hard", "../secret", tarfile.LNKTYPE),
        link("a/device", "", tarfile.CHRTYPE),
        (tarfile.TarInfo("../../out.py"), b"y"),
    )
    expected = [("a/train.py", b"x" * 100), ("../../out.py", b"y")]
    assert looked_into(tmp_path, raw) == expected
    assert looked_into(tmp_path, gzip.compress(raw)) == expected
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar.gz", "release", "secret"]


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_UNPACKED", 1_000_000)
    bomb = gzip.compress(bytes(200_000_000), 9)
    assert len(bomb) < 250_000
    (tmp_path / "release").mkdir()
    (tmp_path / "release/a.tar.gz").write_bytes(bomb)
    source = Folder(tmp_path / "release")
    tracemalloc.start()
    with pytest.raises(UserError, match="unpacks to more than"):
        list(members(source, "a.tar.gz", 100))
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_numbers_and_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = tar(*((tarfile.TarInfo(f"{number}.py"), b"") for number in range(20)))
    monkeypatch.setattr(archive, "MOST_MEMBERS", 10)
    with pytest.raises(UserError, match="more than 10 members"):
        looked_into(tmp_path, raw)
    monkeypatch.setattr(archive, "MOST_COMPRESSED", 100)
    with pytest.raises(UserError, match="larger than 100 bytes"):
        looked_into(tmp_path, raw)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE])
def test_headers_that_describe_headers_are_an_error(tmp_path: Path, kind: bytes) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 0 if kind == tarfile.XHDTYPE else 1
    block = header.tobuf(tarfile.GNU_FORMAT) + bytes(512 if header.size else 0)
    with pytest.raises(UserError, match=r"nested too deep|not a sound tar"):
        looked_into(tmp_path, block * 3000)


@given(st.data())
def test_a_damaged_archive_is_an_error_or_less(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    raw = bytearray(tar((tarfile.TarInfo("a.py"), b"x = 1\n" * 50), (tarfile.TarInfo("b.py"), b"y")))
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=8)):
        raw[place] = data.draw(st.integers(0, 255))
    whole = gzip.compress(bytes(raw)) if data.draw(st.booleans()) else bytes(raw)
    try:
        found = looked_into(tmp_path_factory.getbasetemp(), whole[: data.draw(st.integers(0, len(whole)))])
    except UserError:
        return
    assert all(len(content) <= 100 for _, content in found)
