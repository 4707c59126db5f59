"""``clearseek-manifest.json``: what belongs to a release, file by file, and one number for all of it.

The manifest lists every file with its size and SHA-256, sorted by the bytes of the path, and the root of a Merkle tree
(:mod:`clearseek.signing.merkle`) over the entries. The root is short enough to print in a paper or to put into a git
tag; with it, one file can be checked against the release without the other files. An entry's item in the tree is

    SHA-256 of the file (32 bytes) || size (8 bytes, big-endian) || path (UTF-8, the rest)

Some paths are not part of a release's content: the manifest itself and the signature, which come later than the hashes,
statements that others add, and what git and Hugging Face's client keep in a folder. The manifest says which they are
(``left_out``). The root covers the files only, so the list of what was left out is only as good as the signature over
the manifest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import clearseek
from clearseek.errors import OtherVersionError, UserError
from clearseek.jsontext import strict_json
from clearseek.signing import merkle
from clearseek.signing.hashing import Progress, hash_files
from clearseek.signing.tree import File, Tree, collisions, is_below, name_problem, path_bytes, read_bytes, visible, walk

MANIFEST = "clearseek-manifest.json"
SIGNATURE = "model.sig"
ATTESTATIONS = "attestations"
"""Folder for statements about the release, each signed by itself, that can be added later."""
NOT_CONTENT = (".cache/huggingface", ".git", ".gitattributes", ".github", ".gitignore", ATTESTATIONS)
"""Left out of manifest and signature: version control, a download's notes, statements of others."""
VERSION = 1
LONGEST = 64 * 2**20
"""Bytes of a manifest that are read: some 400,000 files."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a release."""

    path: str
    size: int
    sha256: str

    @property
    def leaf(self) -> bytes:
        """Its hash in the tree."""
        return merkle.leaf_hash(bytes.fromhex(self.sha256) + self.size.to_bytes(8, "big") + path_bytes(self.path))


@dataclass(frozen=True, slots=True)
class Proof:
    """That an entry belongs to a root."""

    index: int
    count: int
    path: tuple[str, ...]
    """Neighbouring hashes in hex, the lowest first."""


@dataclass(frozen=True)
class Manifest:
    """A release's files."""

    files: tuple[Entry, ...]
    """Sorted by the bytes of the path."""
    left_out: tuple[str, ...] = ()
    """Paths, of files or of whole folders, that do not count."""

    @cached_property
    def leaves(self) -> tuple[bytes, ...]:
        """The tree's leaves."""
        return tuple(entry.leaf for entry in self.files)

    @cached_property
    def root(self) -> str:
        """The Merkle root in hex."""
        return merkle.root(self.leaves).hex()

    def proof(self, index: int) -> Proof:
        """That the entry of this index belongs to the root."""
        return Proof(index, len(self.files), tuple(each.hex() for each in merkle.proof(self.leaves, index)))

    def to_bytes(self) -> bytes:
        """The manifest as JSON, one line for each file; the same manifest is the same bytes."""
        lines = ",\n  ".join(
            json.dumps({"path": each.path, "size": each.size, "sha256": each.sha256}, ensure_ascii=False)
            for each in self.files
        )
        head = json.dumps({"version": VERSION, "root": self.root, "left_out": self.left_out}, ensure_ascii=False)
        return f'{head[:-1]}, "files": [\n  {lines}\n]}}\n'.encode()


@dataclass(frozen=True, slots=True)
class Differences:
    """How a folder differs from a manifest; all empty where it does not."""

    missing: tuple[str, ...]
    """In the manifest, not in the folder."""
    extra: tuple[str, ...]
    """In the folder, not in the manifest."""
    changed: tuple[str, ...]
    """Another content of the same size."""
    resized: tuple[str, ...]
    """Another size."""

    def __bool__(self) -> bool:
        return any((self.missing, self.extra, self.changed, self.resized))

    def lines(self) -> list[str]:
        """One line for each."""
        named = (
            (self.missing, "is missing"), (self.extra, "is not in the manifest"),
            (self.changed, "has another content"), (self.resized, "has another size"),
        )  # fmt: skip
        return [f"{visible(path)}: {what}" for paths, what in named for path in paths]


def build(
    root: Path,
    exclude: Iterable[str] = (MANIFEST, SIGNATURE, *NOT_CONTENT),
    progress: Progress | None = None,
    known: Mapping[str, str] | None = None,
) -> Manifest:
    """The manifest of a folder as it is.

    Args:
        root: The folder.
        exclude: Paths that do not count, files or whole folders.
        progress: Told about the hashing.
        known: SHA-256 of files, by path, that were hashed a moment ago.

    Raises:
        UserError: the folder holds something that no release may hold, or cannot be read.
    """
    left_out = tuple(sorted(set(exclude), key=path_bytes))
    tree = sound_tree(root, left_out)
    hashes = dict(known or {})
    hashes |= hash_files(root, tuple(file for file in tree.files if file.path not in hashes), progress)
    return Manifest(tuple(Entry(file.path, file.size, hashes[file.path]) for file in tree.files), left_out)


def parse(raw: bytes, where: str = MANIFEST) -> Manifest:
    """Read a manifest and check it: shape, order, names, and that the root is that of the files.

    Args:
        raw: The file's bytes.
        where: Starts the message of the UserError.
    """
    content = strict_json(raw, where)
    if set(content) != {"version", "root", "left_out", "files"}:
        raise UserError(f"{where}: not a manifest: its keys must be version, root, left_out and files")
    if type(content["version"]) is not int or content["version"] != VERSION:
        found, reads = content["version"], f"{clearseek.__version__} reads version {VERSION}"
        raise OtherVersionError(f"{where}: a manifest of another version of ClearSeek ({found!r:.40}); {reads}")
    left_out, files = content["left_out"], content["files"]
    if not isinstance(left_out, list) or not all(isinstance(path, str) for path in left_out):
        raise UserError(f"{where}: left_out must be a list of paths")
    if not isinstance(files, list):
        raise UserError(f"{where}: files must be a list")
    entries = tuple(_entry(value, number, where) for number, value in enumerate(files))
    _check_paths(left_out, f"{where}: left_out")
    _check_paths([entry.path for entry in entries], f"{where}: files")
    for path, what in collisions(entry.path for entry in entries):
        raise UserError(f"{where}: files: {visible(path)}: {what}")
    outside = frozenset(left_out)
    for entry in entries:
        if is_below(entry.path, outside):
            raise UserError(f"{where}: {visible(entry.path)} is both among the files and left out")
    manifest = Manifest(entries, tuple(left_out))
    if content["root"] != manifest.root:
        raise UserError(f"{where}: the root does not belong to these files; it should be {manifest.root}")
    return manifest


def read(root: Path) -> Manifest:
    """The manifest in a folder. Raises UserError where there is none or it is not valid."""
    return parse(read_bytes(root, MANIFEST, LONGEST), f"{root}/{MANIFEST}")


def compare(manifest: Manifest, tree: Tree, hashes: Mapping[str, str]) -> Differences:
    """How a folder differs from a manifest.

    Args:
        manifest: What should be there.
        tree: What is there, walked without what the manifest leaves out.
        hashes: SHA-256 of its files; only those that :func:`to_hash` names are needed.
    """
    expected = {entry.path: entry for entry in manifest.files}
    found = {file.path: file for file in tree.files}
    same_size = [path for path, file in found.items() if path in expected and file.size == expected[path].size]
    return Differences(
        missing=tuple(path for path in expected if path not in found),
        extra=tuple(path for path in found if path not in expected),
        changed=tuple(path for path in same_size if hashes[path] != expected[path].sha256),
        resized=tuple(path for path, file in found.items() if path in expected and file.size != expected[path].size),
    )


def to_hash(manifest: Manifest, tree: Tree) -> tuple[File, ...]:
    """The files whose size agrees, so that only their content can tell."""
    sizes = {entry.path: entry.size for entry in manifest.files}
    return tuple(file for file in tree.files if sizes.get(file.path) == file.size)


def check(root: Path, manifest: Manifest, progress: Progress | None = None) -> tuple[Differences, Tree]:
    """Compare a folder with a manifest; the tree says what else is wrong with it and what was left out."""
    tree = walk(root, manifest.left_out)
    return compare(manifest, tree, hash_files(root, to_hash(manifest, tree), progress)), tree


def check_proof(entry: Entry, proof: Proof, root: str) -> bool:
    """Whether an entry belongs to a root. Anything malformed does not."""
    try:
        if not all(_SHA256.fullmatch(each) for each in (entry.sha256, root, *proof.path)):
            return False
        path = [bytes.fromhex(each) for each in proof.path]
        return merkle.check_proof(entry.leaf, proof.index, proof.count, path, bytes.fromhex(root))
    except (ValueError, OverflowError, TypeError, AttributeError):
        return False


def sound_tree(root: Path, left_out: Iterable[str]) -> Tree:
    """The files of a folder. Raises UserError where it holds what a release may not hold."""
    for path in left_out:
        if what := name_problem(path):
            raise UserError(f"cannot leave out {visible(path)}: {what}")
    tree = walk(root, left_out)
    if tree.problems:
        more = f", and {len(tree.problems) - 3} more" if len(tree.problems) > 3 else ""
        listed = "; ".join(map(str, tree.problems[:3]))
        raise UserError(f"{root}: remove or rename what a release may not hold: {listed}{more}")
    return tree


def _entry(value: Any, number: int, where: str) -> Entry:
    if not isinstance(value, dict) or set(value) != {"path", "size", "sha256"}:
        raise UserError(f"{where}: files[{number}] must have path, size and sha256, and nothing else")
    path, size, sha256 = value["path"], value["size"], value["sha256"]
    if not isinstance(path, str):
        raise UserError(f"{where}: files[{number}].path must be text")
    if type(size) is not int or not 0 <= size < 2**63:
        raise UserError(f"{where}: files[{number}].size must be a whole number from 0 up")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise UserError(f"{where}: files[{number}].sha256 must be 64 lower-case hex digits")
    return Entry(path, size, sha256)


def _check_paths(paths: list[str], where: str) -> None:
    for path in paths:
        if what := name_problem(path):
            raise UserError(f"{where}: {visible(path)}: {what}")
    for before, path in pairwise(paths):
        if path_bytes(before) >= path_bytes(path):
            raise UserError(f"{where}: {visible(path)} must come before {visible(before)}, and no path may repeat")
