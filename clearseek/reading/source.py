"""Where a release is read from: a folder, or a repository of the Hugging Face hub at one revision.

Checks see only this: names with sizes, and bytes on request. Nothing outside the release is reachable through it,
nothing is read whole that may be large, and a file's hash is taken once.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from clearseek.errors import UserError
from clearseek.filetypes import POINTER_BYTES, Pointer, read_pointer
from clearseek.hub.safetensors import LONGEST_HEADER, Header, parse_header
from clearseek.jsontext import strict_json
from clearseek.reading.card import Document, decode
from clearseek.reading.evidence import Evidence
from clearseek.signing.tree import Problem, Tree, open_file, walk
from clearseek.sysfiles import system_file

MOST_TEXTS = 200
MOST_TEXT = 3_000_000
"""Files of prose that are read, and bytes of them in all."""
LONGEST_TEXT = 8_000_000
"""Bytes of a text file that are read; the rest of a longer one is not looked at."""
LONGEST_JSON = 200_000_000
_TESTS = re.compile(r"(?:^|/)(?:tests?|testing|test[-_]\w+|fixtures?|examples?)/")
POINTED = "a pointer: this copy was made without large files (fetch it with git lfs pull)"
NOT_READ = (".git", ".cache")
"""Folders of version control and download tools, which are no part of a release."""


class Source(ABC):
    """A release to read."""

    name: str
    """How the user called it."""
    repository: str = ""
    """Owner and name on the hub; a folder's name says nothing about what is in it."""
    revision: str = ""
    """The commit, where there is one."""
    released: str = ""
    """When it was published, as ``2025-01-20T06:07:08Z``, where that is known."""
    hashes: dict[str, str]
    """Path -> SHA-256 in hex, of the files whose hash is known by now."""
    problems: tuple[Problem, ...]
    """Names and links that a release should not have; nothing followed or trusted them."""
    most_samples: int = 400
    """Tensors of which numbers are read, where not all are."""
    whole_bytes: int = 256_000_000
    """Weights up to this size are read whole."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        self._documents: dict[str, Document] = {}
        self._pointers: dict[str, Pointer | None] = {}
        self._headers: dict[str, Header] = {}

    @property
    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Path -> bytes, for every file of the release, sorted."""

    @abstractmethod
    def read(self, path: str, limit: int, begin: int = 0) -> bytes:
        """At most `limit` bytes of a file from `begin`. Raises UserError when it cannot be read."""

    @abstractmethod
    def sha256(self, path: str) -> str:
        """SHA-256 of a file in hex; empty where it is not known and was not asked for."""

    @cached_property
    def revisions(self) -> dict[str, dict[str, str]]:
        """Other states of the release, by name: path -> SHA-256 of their large files. A folder has none."""
        return {}

    def data_set(self, name: str) -> str | None:
        """What is found of a data set where the release is, in words; empty where it is not there.

        None where it cannot be asked: a folder knows no other place.
        """
        return None

    def pointer(self, path: str) -> Pointer | None:
        """What a file points to, in a clone without large files; None for a file that is here."""
        if path not in self._pointers:
            self._pointers[path] = None
            if 0 < self.sizes[path] <= POINTER_BYTES:
                with suppress(UserError):
                    self._pointers[path] = read_pointer(self.read(path, POINTER_BYTES))
        return self._pointers[path]

    def stored_size(self, path: str) -> int:
        """Bytes of a file, or of the one that it points to."""
        pointer = self.pointer(path)
        return self.sizes[path] if pointer is None else pointer.size

    def find(self, *patterns: str) -> tuple[str, ...]:
        """Paths whose last part matches one of the patterns (case as given, or in lower case)."""
        return tuple(
            path
            for path in self.sizes
            if not system_file(path)  # ._model.safetensors is what macOS leaves beside a model, and no model
            and any(fnmatchcase(base, p) or fnmatchcase(base.lower(), p) for p in patterns if (base := _base(path)))
        )

    def document(self, path: str) -> Document:
        """A text file with its places. Raises UserError when it cannot be read."""
        if path not in self._documents:
            raw = self.read(path, LONGEST_TEXT)
            whole = len(raw) == self.sizes[path]
            self._documents[path] = Document(path, decode(raw), self.sha256(path) if whole else "")
        return self._documents[path]

    def readable(self, paths: Iterable[str]) -> Iterator[Document]:
        """Those of these text files that can be read."""
        for path in paths:
            with suppress(UserError):
                yield self.document(path)

    def json(self, path: str) -> dict[str, Any]:
        """A JSON object without a key twice. Raises UserError naming the file."""
        if self.pointer(path) is not None:
            raise UserError(f"{path}: {POINTED}")
        if self.sizes[path] > LONGEST_JSON:
            raise UserError(f"{path}: larger than {LONGEST_JSON:,} bytes, which no such file is")
        return strict_json(self.read(path, LONGEST_JSON), path)

    def header(self, path: str) -> Header:
        """The header of a safetensors file, read strictly. Raises UserError naming the file."""
        if self.pointer(path) is not None:
            raise UserError(f"{path}: {POINTED}")
        if path not in self._headers:
            raw = self.read(path, 8)
            length = int.from_bytes(raw, "little")
            if len(raw) == 8 and 2 <= length <= min(LONGEST_HEADER, self.sizes[path] - 8):
                raw += self.read(path, length, 8)
            self._headers[path] = parse_header(raw, self.sizes[path], path)
        return self._headers[path]

    def settings(self, path: str) -> dict[str, Any]:
        """A JSON object; empty where it is not here or cannot be read."""
        with suppress(UserError):
            return self.json(path) if path in self.sizes else {}
        return {}

    def is_other(self, path: str, sha256: object) -> bool:
        """Whether a file is not here, or is known to have another hash than this one."""
        pointer = self.pointer(path) if path in self.sizes else None
        known = pointer.sha256 if pointer is not None else self.sha256(path) if path in self.sizes else "absent"
        return known not in ("", sha256)

    def whole(self, path: str) -> Evidence:
        """A whole file as evidence; of one that is only pointed to, with the hash that the pointer names."""
        pointer = self.pointer(path)
        if pointer is None:
            return Evidence(path, sha256=self.sha256(path))
        told = f"{pointer.size:,} bytes, SHA-256 {pointer.sha256 or 'not named'}"
        return Evidence(path, "pointer", told, self.sha256(path))

    def key(self, path: str, key: str, value: Any) -> Evidence:
        """A key of a JSON file as evidence."""
        return Evidence(path, f"key {key}", json.dumps(value)[:200], self.sha256(path))


class Folder(Source):
    """A release on disk."""

    def __init__(self, root: Path, hashes: dict[str, str] | None = None) -> None:
        """Walk the folder; `hashes` are those already taken. Raises UserError when it is none."""
        super().__init__()
        if not root.is_dir():
            what = "is no folder" if root.exists() else "no such folder, nor the name of a repository (owner/name)"
            raise UserError(f"{root}: {what}: give the folder of a release")
        self.name = str(root)
        self.root = root
        self.tree: Tree = walk(root, skip=NOT_READ)
        self.problems = self.tree.problems
        self.hashes = hashes or {}

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Path -> bytes."""
        return {file.path: file.size for file in self.tree.files}

    def read(self, path: str, limit: int, begin: int = 0) -> bytes:
        """Bytes of a file, never of one outside the folder."""
        pieces: list[bytes] = []
        limit = min(limit, self.sizes.get(path, limit) - begin)  # a read makes room for all that it may get
        try:
            with open_file(self.root, path) as file:
                file.seek(begin)
                while limit > 0 and (piece := file.read(min(limit, 1 << 26))):
                    pieces.append(piece)
                    limit -= len(piece)
        except OSError as error:
            raise UserError(f"{path}: cannot read: {error.strerror}") from None
        return b"".join(pieces)

    def sha256(self, path: str) -> str:
        """From the hashes taken beforehand."""
        return self.hashes.get(path, "")


def is_test(path: str) -> bool:
    """Whether a file is there to test code, by its folders: what it holds is an example, not the release's own."""
    return bool(_TESTS.search(path.lower()))


def _base(path: str) -> str:
    return path.rpartition("/")[2]


def prose(source: Source) -> tuple[list[str], list[str]]:
    """Names of the text files that are read, and of those that are not, for there are too many or they are too long.

    The cards come first, then other text files; licences are left out.
    """
    others = others_projects(source)
    chosen = [path for path in source.sizes if _is_prose(path) and source.pointer(path) is None]
    chosen = [path for path in chosen if not path.startswith(others)]
    chosen.sort(key=lambda path: (path.count("/"), "readme" not in path.lower(), path))
    length = 0
    for number, path in enumerate(chosen):
        length += min(source.sizes[path], LONGEST_TEXT)
        if number == MOST_TEXTS or (number and length > MOST_TEXT):
            return chosen[:number], chosen[number:]
    return chosen, []


_LICENCES = ("license", "licence", "copying")
_PACKAGING = ("setup.py", "pyproject.toml")
_MOST_PROJECTS = 100
"""Folders whose licence is compared; of a release with more the others are somebody else's."""


@lru_cache(maxsize=2)
def others_projects(source: Source) -> tuple[str, ...]:
    """Folders that hold whole projects of others, each with its own licence and its own file for packaging.

    One with the release's own licence is a package of the release.
    """
    licences: dict[str, str] = {}
    packed: set[str] = set()
    for path in source.sizes:
        folder, _, base = path.rpartition("/")
        if base.lower() in _PACKAGING:
            packed.add(folder)
        elif base.lower().partition(".")[0] in _LICENCES:
            licences.setdefault(folder, path)
    found = {folder: path for folder, path in licences.items() if folder in packed - {""}}
    top = [path for path in source.sizes if "/" not in path and path.lower().startswith(_LICENCES)]
    own = set(map(_words_of, source.readable(top[:_MOST_PROJECTS])))
    compared = source.readable(islice(found.values(), _MOST_PROJECTS)) if own else ()
    ours = {document.file for document in compared if _words_of(document) in own}
    return tuple(f"{folder}/" for folder, path in found.items() if path not in ours)


def _words_of(document: Document) -> str:
    return " ".join(document.text.split())


def _is_prose(path: str) -> bool:
    base = _base(path).lower()
    if base.startswith((".", "license", "licence", "copying", "notice", "merges", "vocab", "requirements")):
        return False
    return base.endswith((".md", ".txt", ".rst")) or base in ("readme", "model_card", "card")
