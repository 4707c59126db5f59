"""A pattern finds what it names, and what it passes over is counted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clearseek.data.find import HIDDEN, LINKED, NO_FILES, OTHER_CASE, Finder, shown
from clearseek.errors import UserError


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def names(folder: Path, *patterns: str, exclude: tuple[str, ...] = ()) -> list[str]:
    return [name for name, _ in Finder(folder).find(patterns, exclude)]


@pytest.mark.parametrize(
    "name", ["Notes [2] (alt).txt", "a[b.txt", "[x]/deep.txt", "what?.txt", "star*.txt", "a\nb.txt"]
)
def test_a_name_is_itself_before_it_is_a_pattern(tmp_path: Path, name: str) -> None:
    make(tmp_path, name, "Notes 2 (alt).txt", "x/deep.txt")
    assert names(tmp_path, name) == [shown(name)]


def test_brackets_are_a_pattern_where_no_such_name_is(tmp_path: Path) -> None:
    make(tmp_path, "a1.txt", "a2.txt", "a3.txt", "[old]/x.txt")
    assert names(tmp_path, "a[12].txt", "[old]/*.txt") == ["[old]/x.txt", "a1.txt", "a2.txt"]


def test_home_is_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    make(tmp_path, "home/a.txt")
    assert names(tmp_path, "~/*.txt") == ["home/a.txt"]


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "B.TXT", ".hidden.txt", ".git/c.txt", "d/.vault/e.txt", "d/F.Txt", "d/g.md", "d/.h.md")
    (tmp_path / "link").symlink_to(tmp_path / "d")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nothing")
    finder = Finder(tmp_path)
    assert [name for name, _ in finder.find(("**/*.txt",))] == ["a.txt"]
    assert finder.passed_over == {HIDDEN: 3, LINKED: 1, OTHER_CASE: 2, NO_FILES: 1}
    assert names(tmp_path, ".hidden.txt", "**/.vault/*", "*.TXT") == [".hidden.txt", "B.TXT", "d/.vault/e.txt"]


def test_a_pattern_that_only_passes_over_says_so(tmp_path: Path) -> None:
    make(tmp_path, ".vault/a.md", "B.MD")
    with pytest.raises(UserError, match=r"names no file.*1 names in other case.*1 hidden files or .*\.vault\)"):
        names(tmp_path, "**/*.md")


def test_loops_end(tmp_path: Path) -> None:
    make(tmp_path, "a/x.txt")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    assert names(tmp_path, "**/*") == ["a/x.txt"]


def test_exclude(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "b.txt", "drafts/c.txt", "drafts/deep/d.txt", "e.log")
    assert names(tmp_path, "**/*", exclude=("drafts/**", "*.log")) == ["a.txt", "b.txt"]
    assert names(tmp_path, "**/*.txt", exclude=("**/d.txt",)) == ["a.txt", "b.txt", "drafts/c.txt"]
    with pytest.raises(UserError, match=r"data\.exclude names no file"):
        names(tmp_path, "*.txt", exclude=("*.tmp",))
    with pytest.raises(UserError, match=r"leaves none of the files"):
        names(tmp_path, "*.txt", exclude=("*",))


def test_a_name_that_is_not_utf8_is_escaped(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/Gr\xf6\xdfe.txt"
    with open(path, "wb") as file:  # noqa: PTH123 - a name of bytes
        file.write(b"content")
    ((name, place),) = Finder(tmp_path).find(("*.txt",))
    assert name == "Gr\\xf6\\xdfe.txt"
    assert place.read_bytes() == b"content"
    assert shown("Größe") == "Größe"


def test_names_are_utf8_whatever_the_locale(tmp_path: Path) -> None:
    make(tmp_path, "größe.txt")
    code = (
        "from clearseek.data.find import *\n"
        "print([ascii(name) for name, _ in Finder(Path('.')).find(('gr\\xf6*.txt', 'gr\\xf6\\xdfe.txt'))])"
    )
    posix = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | posix, capture_output=True, check=True
    )
    assert ended.stdout.decode() == str([ascii("größe.txt")]) + "\n"
