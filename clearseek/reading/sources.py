"""The release's own source files and settings: not tests, not what is somebody else's, not more than can be read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from clearseek.errors import UserError
from clearseek.reading.archive import members
from clearseek.reading.evidence import Evidence
from clearseek.reading.program import ENDINGS, SCRIPTS, SETTINGS, Program, read_program
from clearseek.reading.source import Source, others_projects

LONGEST_SOURCE: Final = 1_000_000
LONGEST_NOTEBOOK: Final = 6_000_000
"""Bytes of a file that are read."""
MOST_SOURCES: Final = 4_000
MOST_SOURCE: Final = 100_000_000
"""Source files, and bytes of them in all."""
SOFTWARE: Final = ("requirements", "constraints", "environment", "dockerfile", "setup.py", "pyproject", "pipfile")
_THEIRS: Final = re.compile(
    r"(?:^|/)(?:dependencies|(?:third|3rd)[_-]?party|vendor(?:ed)?|node_modules|site-packages|external|\.github"
    r"|\.circleci|\.buildkite|tests?|testing|unit_?tests|fixtures)/|(?:^|/)(?:test_[^/]*|[^/]*_test|conftest)\.py$"
)
_EXAMPLES: Final = re.compile(
    r"(?:^|/)(?:[\w-]{0,40}[_-])?(?:(?:example|demo|tutorial|cookbook|doc|colab|notebook)s?|playground|samples)/", re.I
)


@dataclass
class SourceFile:
    """A source file of the release, or of an archive in it."""

    path: str
    """Inside the release; for a member of an archive, ``archive.tar.gz!member``."""
    raw: bytes
    evidence: Evidence
    beside: frozenset[str] = frozenset()
    """Names of all files of the release, without their folders."""
    cut: str = ""
    """Why not all of it was read."""
    others: bool = False
    """It is in a project of others that was copied in."""

    @cached_property
    def program(self) -> Program:
        """What it does and sets."""
        return read_program(self.path, self.raw)

    @property
    def unread(self) -> str:
        """Why it, or a part of it, could not be read."""
        return self.cut or self.program.unread

    @property
    def is_code(self) -> bool:
        """Whether it is in a programming language."""
        return self.path.lower().endswith(ENDINGS)

    @property
    def runs(self) -> bool:
        """Whether it is code, a script, or a file that may hold commands."""
        return self.path.lower().endswith((*ENDINGS, *SCRIPTS, ".yaml", ".yml"))

    @property
    def example(self) -> bool:
        """Whether its folder says that it shows others how to, or tries out the package that is beside it."""
        tried = "experiments/" in self.path and not self.beside.isdisjoint(("setup.py", "pyproject.toml"))
        return tried or _EXAMPLES.search(self.path) is not None

    @property
    def cost(self) -> int:
        """Bytes that are to be taken apart to know its program; a notebook's are mostly pictures."""
        return 0 if "program" in self.__dict__ else len(self.raw) // (20 if self.path.endswith(".ipynb") else 1)


def source_files(source: Source) -> tuple[SourceFile, ...]:
    """The release's own source files and files of settings: code first, shallow before deep."""
    beside = frozenset(path.rpartition("/")[2] for path in source.sizes)
    code, theirs = (*ENDINGS, *SCRIPTS), others_projects(source)
    out: list[SourceFile] = []
    length = 0
    for path in sorted(source.sizes, key=lambda each: (not each.lower().endswith(code), each.count("/"), each)):
        try:
            for inner, raw, limit in _read(source, path):
                where = Evidence(path, f"member {inner}" if inner else "", "", source.sha256(path))
                cut = f"is longer than {limit:,} bytes" if len(raw) >= limit else ""
                copied = path.startswith(theirs)
                out.append(SourceFile(f"{path}!{inner}" if inner else path, raw, where, beside, cut, copied))
                length += len(raw)
        except UserError as error:
            if path.lower().endswith(ENDINGS):
                out.append(SourceFile(path, b"", Evidence(path), beside, f"could not be read: {error}"))
        if len(out) >= MOST_SOURCES or length > MOST_SOURCE:
            break
    return tuple(out)


def _read(source: Source, path: str) -> Iterator[tuple[str, bytes, int]]:
    """The sources in a file: name in an archive or empty, bytes, and the number of bytes that are read at most."""
    if _is_source(path):
        limit = LONGEST_NOTEBOOK if path.endswith(".ipynb") else LONGEST_SOURCE
        yield "", source.read(path, limit), limit
    elif path.endswith((".tar.gz", ".tgz", ".tar")) and "/" in path:
        for member, raw in members(source, path, LONGEST_SOURCE):
            if _is_source(member):
                yield member, raw, LONGEST_SOURCE


def _is_source(path: str) -> bool:
    low = path.lower()
    own = low.endswith((*ENDINGS, *SCRIPTS, *SETTINGS, ".lock")) or low.rpartition("/")[2].startswith(SOFTWARE)
    return own and _THEIRS.search(low) is None
