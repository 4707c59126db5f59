"""Which files a pattern names, and which entries it passes over.

A pattern is a shell's: ``*`` and ``?`` within a name, ``**`` for any depth, no hidden entries unless the pattern says
so, no linked folders (a link may lead back up). A name that exists literally wins over the same name read as a pattern,
so ``Notes [2].txt`` is a file. Unlike a shell, the finder counts passed-over entries by cause, because a corpus that
lacks half of its files looks like any other.
"""

from __future__ import annotations

import fnmatch
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from clearseek.errors import UserError, one_line

HIDDEN = "hidden files or folders"
LINKED = "linked folders"
OTHER_CASE = "names in other case"
NO_FILES = "broken links or devices"


class Finder:
    """Files below a base folder, by patterns."""

    def __init__(self, base: Path) -> None:
        self.passed_over: Counter[str] = Counter()
        """Numbers of entries passed over, by cause."""
        self._base = base
        self._example: dict[str, Path] = {}

    def find(self, patterns: tuple[str, ...], exclude: tuple[str, ...] = ()) -> tuple[tuple[str, Path], ...]:
        """Files that `patterns` name and `exclude` does not, without repetition: (name, path), sorted by name.

        Raises:
            UserError: a pattern names no file, a folder may not be read, or all files are excluded.
        """
        if not patterns:
            raise UserError("data.paths is empty: name at least one file or glob, such as 'texts/**/*.txt'")
        found = {self._relative(path): path for pattern in patterns for path in self._matches(pattern, "data.paths")}
        passed_over = self.passed_over.copy()
        for pattern in exclude:
            for path in self._matches(pattern, "data.exclude"):
                found.pop(self._relative(path), None)
        self.passed_over = passed_over  # entries that an exclusion passes over are not counted
        if not found:
            raise UserError(f"data.exclude = {list(exclude)} leaves none of the files that data.paths names")
        return tuple((shown(name), path) for name, path in sorted(found.items()))

    def _relative(self, path: Path) -> str:
        return Path(os.path.relpath(path, self._base)).as_posix()

    def _matches(self, pattern: str, setting: str) -> list[Path]:
        try:
            path = home(pattern)
            start, parts = (Path(path.anchor), path.parts[1:]) if path.is_absolute() else (self._base, path.parts)
            matches = list(self._expand(start, parts or (".",)))
        except UserError:
            raise
        except OSError as error:
            where = shown(os.fsdecode(error.filename or pattern))
            raise UserError(f"{where}: cannot read: {error.strerror}; fix its permissions") from None
        except ValueError as error:
            raise UserError(f"{setting}: {pattern!r} is not a path: {error}") from None
        if not matches:
            examples = {why: shown(str(path)) for why, path in self._example.items()}
            over = [f"{count} {why} (such as {examples[why]})" for why, count in self.passed_over.items()]
            passed = f"; passed over: {', '.join(over)}; name them to take them in" if over else ""
            raise UserError(
                f"{shown(pattern)}: {setting} names no file (relative paths start at {shown(str(self._base))})"
                f"{passed}: set others, for example with --set '{setting}=[\"my.txt\"]'"
            )
        return matches

    def _expand(self, folder: Path, parts: tuple[str, ...]) -> Iterator[Path]:
        """Files below `folder` that match the glob `parts`.

        A folder without read permission raises an OSError, unlike in `Path.glob`, which would pass over the folder: a
        corpus must not depend on who prepares it.
        """
        head, rest = parts[0], parts[1:]
        if head == "**":
            yield from self._expand(folder, rest or ("*",))
            for path in self._children(folder, "*", folders=True):
                if path.is_symlink() and path.is_dir():
                    self._pass_over(LINKED, path)
                elif path.is_dir():
                    yield from self._expand(path, parts)
            return
        literal = "[" in head and os.path.lexists(folder / head)
        magic = any(character in head for character in "*?[") and not literal
        for path in self._children(folder, head, folders=bool(rest)) if magic else (folder / head,):
            if rest:
                if path.is_dir():
                    yield from self._expand(path, rest)
            elif path.is_file():
                yield path
            elif path.is_dir():
                if not magic:
                    raise UserError(
                        f"{shown(str(path))}: is a folder: name the files in it by a glob, such as "
                        f"{shown(str(path / '**' / '*.txt'))}"
                    )
            elif magic:
                self._pass_over(NO_FILES, path)
            elif os.path.lexists(path):
                raise UserError(f"{shown(str(path))}: is not a regular file: copy its text into one")

    def _children(self, folder: Path, pattern: str, folders: bool) -> Iterator[Path]:
        """Matching entries of a folder, sorted; hidden entries only for a pattern that starts with a dot."""
        for name in sorted(os.listdir(folder)):  # noqa: PTH208 - only the names are needed
            path = folder / name
            if fnmatch.fnmatchcase(name, pattern):
                if not name.startswith(".") or pattern.startswith("."):
                    yield path
                elif path.is_dir() == folders:
                    self._pass_over(HIDDEN, path)
            elif not folders and fnmatch.fnmatchcase(name.lower(), pattern.lower()) and path.is_file():
                self._pass_over(OTHER_CASE, path)

    def _pass_over(self, why: str, path: Path) -> None:
        self.passed_over[why] += 1
        self._example.setdefault(why, path)


def home(name: str) -> Path:
    """A path with ``~`` replaced by the home folder; the ``~`` of an unknown user stays.

    Names are UTF-8, even where the system's encoding is another (ASCII in a POSIX locale).
    """
    name = os.fsdecode(name.encode("utf-8", "surrogateescape"))
    return Path(os.path.expanduser(name))  # noqa: PTH111 - Path refuses the name of no user


def shown(name: str) -> str:
    """A path as UTF-8 text on one line: a byte that is not UTF-8 (from an old zip archive, say) becomes ``\\xf6``, a
    control character ``\\x1b``.
    """
    return one_line(name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))
