from __future__ import annotations

import os
import socket
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearseek.errors import UserError
from clearseek.signing import tree
from clearseek.signing.tree import collisions, name_problem, open_file, read_bytes, read_file, visible, walk

HIDDEN = ["a\u202eb", "a\u200bb", "a\nb", "a\x1b[2Jb", "\ufeffa", "a\u3164", "a\ufe0f", "a\u2028b", "a\\b", "a\x7f"]


def whats(root: Path) -> dict[str, str]:
    return {problem.path: problem.what for problem in walk(root).problems}


def refused(root: Path, path: str) -> str:
    with pytest.raises(UserError) as caught:
        open_file(root, path)
    return str(caught.value)


def test_finds_files_sorted_by_bytes(tmp_path: Path) -> None:
    for name, size in {"b": 1, "a/x": 2, "a.txt": 3, "é": 4, ".hidden/z": 0}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    (tmp_path / "empty").mkdir()
    found = walk(tmp_path, skip=["b", "nothing"])
    assert [(file.path, file.size) for file in found.files] == [(".hidden/z", 0), ("a.txt", 3), ("a/x", 2), ("é", 4)]
    assert found.problems == () and found.skipped == ("b",)
    assert walk(tmp_path, skip=["a", ".hidden/z"]).skipped == (".hidden/z", "a/")
    assert read_bytes(tmp_path, "a/x", 2) == b"xx"


@pytest.mark.parametrize("name", HIDDEN)
def test_names_that_mislead_are_reported_and_not_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    found = walk(tmp_path)
    assert found.files == () and len(found.problems) == 1
    assert str(found.problems[0]).isprintable()
    assert refused(tmp_path, name).isprintable()


def test_a_folder_whose_name_misleads_is_not_entered(tmp_path: Path) -> None:
    (tmp_path / "a\u200b").mkdir()
    (tmp_path / "a\u200b" / "x").write_bytes(b"")
    assert walk(tmp_path).files == () and list(whats(tmp_path)) == ["a\\u200b"]


def test_a_name_that_is_no_utf8_is_reported(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff")).write_bytes(b"")
    assert list(whats(tmp_path)) == ["a\\udcff"]


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/.", "", "a/", "..", "a\0b"])
def test_paths_that_lead_elsewhere(tmp_path: Path, path: str) -> None:
    assert name_problem(path)
    refused(tmp_path, path)


def test_names_equal_but_for_case_or_spelling_are_reported(tmp_path: Path) -> None:
    for name in ("Model.bin", "model.bin", "caf\u00e9", "cafe\u0301", "A/x", "a/y"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert set(whats(tmp_path)) == {"model.bin", "caf\u00e9", "a"}
    assert len(walk(tmp_path).files) == 6


@given(st.lists(st.text(min_size=1), max_size=4))
def test_collisions_is_about_equality(names: list[str]) -> None:
    names = [name for name in set(names) if name.isprintable()]
    found = {path for path, _ in collisions(names)}
    plain = {unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold()) for name in names}
    assert len(names) - len(found) == len(plain)


@given(st.text(st.characters(), max_size=6))
def test_visible_text_is_printable_and_one_to_one(text: str) -> None:
    shown = visible(text)
    assert not any(unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zl", "Zp") for each in shown)
    assert shown == text or "\\" in shown


def test_special_files_are_reported_and_do_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as end:
        folder = os.open(tmp_path, os.O_RDONLY)
        try:
            end.bind(f"/proc/self/fd/{folder}/socket")
        finally:
            os.close(folder)
        (tmp_path / "to-fifo").symlink_to("fifo")
        found = whats(tmp_path)
        assert "fifo" in found["fifo"] and "socket" in found["socket"] and "regular" in found["to-fifo"]
        assert walk(tmp_path).files == ()
        for path in found:
            refused(tmp_path, path)
    with pytest.raises(UserError, match="regular"):
        read_file(tmp_path / "fifo", 9)
    with pytest.raises(UserError, match="regular"):
        read_file(Path("/dev/zero"), 9)


@pytest.mark.parametrize(
    "target",
    ["../secret", "/etc/passwd", "../../../../etc/passwd", "folder", "link", "nothing", "folder/../file", ".", "..",
     "loop", "folder/", "../blobs/x"],
)  # fmt: skip
def test_links_that_lead_away_or_around_are_reported(tmp_path: Path, target: str) -> None:
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (tmp_path / "blobs").mkdir()
    for file in (tmp_path / "secret", tmp_path / "blobs" / "x", root / "file"):
        file.write_text("secret")
    (root / "link").symlink_to("file")
    (root / "loop").symlink_to(target)
    assert list(whats(root)) == ["loop"]
    assert [file.path for file in walk(root).files] == ["file", "link"]
    refused(root, "loop")


def test_a_linked_folder_is_not_entered(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").write_text("x")
    (root / "out").symlink_to("../other")
    assert list(whats(root)) == ["out"]
    refused(root, "out/x")


def test_links_to_files_inside_are_followed(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "file").write_text("here")
    (tmp_path / "a" / "b" / "link").symlink_to("../../file")
    (tmp_path / "a" / "down").symlink_to("b/real")
    (tmp_path / "a" / "b" / "real").write_text("there")
    found = walk(tmp_path)
    assert found.problems == ()
    assert {file.path: file.link for file in found.files if file.link} == {"a/b/link": "../../file", "a/down": "b/real"}
    assert read_bytes(tmp_path, "a/b/link", 9) == b"here" and read_bytes(tmp_path, "a/down", 9) == b"there"


def test_hugging_faces_cache(tmp_path: Path) -> None:
    model = tmp_path / "models--owner--name"
    snapshot = model / "snapshots" / "abc"
    (snapshot / "sub").mkdir(parents=True)
    (model / "blobs").mkdir()
    (model / "blobs" / "12ab").write_text("weights")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("abc")
    (snapshot / "w").symlink_to("../../blobs/12ab")
    (snapshot / "sub" / "w").symlink_to("../../../blobs/12ab")
    found = walk(snapshot)
    assert found.problems == () and [(file.path, file.size) for file in found.files] == [("sub/w", 7), ("w", 7)]
    assert read_bytes(snapshot, "sub/w", 9) == b"weights"
    for target in ("../../refs/main", "../../blobs/../refs/main", "../../../models--owner--name/blobs/12ab", "../x"):
        (snapshot / "w").unlink()
        (snapshot / "w").symlink_to(target)
        assert list(whats(snapshot)) == ["w"], target
        refused(snapshot, "w")


def test_a_file_swapped_for_a_link_after_the_walk_is_not_followed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "folder" / "x").write_text("x")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "x").write_text("secret")
    assert walk(root).problems == ()
    (root / "folder").rename(root / "gone")
    (root / "folder").symlink_to("../secret")
    refused(root, "folder/x")


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "DEEPEST", 2)
    (tmp_path / "a" / "b" / "c" / "d").mkdir(parents=True)
    assert "2 folders" in whats(tmp_path)["a/b/c"]
    (tmp_path / "x").write_bytes(b"123")
    with pytest.raises(UserError, match="3 bytes are more than the 2"):
        read_bytes(tmp_path, "x", 2)
    with pytest.raises(UserError, match="more than"):
        read_file(tmp_path / "x", 2)
    assert read_file(tmp_path / "x", 3) == b"123"


def test_a_root_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    for root in (tmp_path / "x", tmp_path / "nothing"):
        with pytest.raises(UserError, match=root.name):
            walk(root)
        refused(root, "x")


def test_a_root_reached_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_bytes(b"1")
    (tmp_path / "alias").symlink_to("real")
    assert [file.path for file in walk(tmp_path / "alias").files] == ["x"]
