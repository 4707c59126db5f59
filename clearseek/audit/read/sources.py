"""The release's own source files and settings: not tests, not what is somebody else's, not more than can be read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from clearseek.audit.evidence import Evidence
from clearseek.audit.read.archive import members
from clearseek.audit.read.program import ENDINGS, SCRIPTS, SETTINGS, Program, read_program, several
from clearseek.audit.read.source import Source
from clearseek.errors import UserError

LONGEST_SOURCE: Final = 1_000_000
LONGEST_NOTEBOOK: Final = 6_000_000
"""Bytes of a file that are read."""
MOST_SOURCES: Final = 4_000
MOST_SOURCE: Final = 100_000_000
"""Source files, and bytes of them in all."""
SOFTWARE: Final = ("requirements", "constraints", "environment", "dockerfile", "setup.py", "pyproject", "pipfile")
_THEIRS: Final = several(
    "dependencies third_party third-party thirdparty 3rdparty vendor vendored node_modules site-packages external .github"
    " .circleci .buildkite tests test testing unittests unit_tests fixtures"
)
_TRIES: Final = re.compile(r"(?:^|/)(?:test_[^/]*|[^/]*_test|conftest)\.py$")
_EXAMPLES: Final = several(
    "example examples demo demos tutorial tutorials cookbook cookbooks docs doc playground samples colab colabs notebook notebooks"
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

    @cached_property
    def example(self) -> bool:
        """Whether its folder says that it shows others how to."""
        return not _EXAMPLES.isdisjoint(self.path.lower().split("/")[:-1])

    @property
    def cost(self) -> int:
        """Bytes that are to be taken apart to know its program; a notebook's are mostly pictures."""
        return 0 if "program" in self.__dict__ else len(self.raw) // (20 if self.path.endswith(".ipynb") else 1)


def source_files(source: Source) -> tuple[SourceFile, ...]:
    """The release's own source files and files of settings: code first, shallow before deep."""

    def rank(path: str) -> tuple[bool, int, str]:
        return not path.lower().endswith((*ENDINGS, *SCRIPTS)), path.count("/"), path

    beside = frozenset(path.rpartition("/")[2] for path in source.sizes)
    out: list[SourceFile] = []
    length = 0
    for path in sorted(source.sizes, key=rank):
        for each in _read(source, path, beside):
            out.append(each)
            length += len(each.raw)
        if len(out) >= MOST_SOURCES or length > MOST_SOURCE:
            break
    return tuple(out)


def _read(source: Source, path: str, beside: frozenset[str]) -> Iterator[SourceFile]:
    try:
        if _is_source(path):
            limit = LONGEST_NOTEBOOK if path.endswith(".ipynb") else LONGEST_SOURCE
            raw = source.read(path, limit)
            cut = f"is longer than {limit:,} bytes" if len(raw) < source.sizes[path] else ""
            yield SourceFile(path, raw, source.whole(path), beside, cut)
        elif path.endswith((".tar.gz", ".tgz", ".tar")) and "/" in path:
            for member, raw in members(source, path, LONGEST_SOURCE):
                if _is_source(member):
                    where = Evidence(path, f"member {member}", "", source.sha256(path))
                    cut = f"is longer than {LONGEST_SOURCE:,} bytes" if len(raw) == LONGEST_SOURCE else ""
                    yield SourceFile(f"{path}!{member}", raw, where, beside, cut)
    except UserError as error:
        if path.lower().endswith(ENDINGS):
            yield SourceFile(path, b"", Evidence(path), beside, f"could not be read: {error}")


def _is_source(path: str) -> bool:
    low = path.lower()
    if not _THEIRS.isdisjoint(low.split("/")[:-1]) or _TRIES.search(low):
        return False
    return low.endswith((*ENDINGS, *SCRIPTS, *SETTINGS, ".lock")) or low.rpartition("/")[2].startswith(SOFTWARE)
