"""Comparison of the code that trains here with the release's: its list, its archive, and this ClearSeek."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Final

from clearseek.errors import OtherVersionError, UserError
from clearseek.jsontext import is_later, strict_json
from clearseek.reading.archive import members
from clearseek.reading.evidence import amount
from clearseek.reading.source import Folder
from clearseek.train.transcript import RunRecord
from clearseek.training_code import (
    CHILDS_ROOTS,
    CODE,
    FORMAT,
    ROOTS,
    code_list,
    module_of,
    package_sources,
    trainers_code,
)

_LONGEST_SOURCE: Final = 200_000
"""Bytes: a parser of Python takes about 1,000 times as much memory."""
_BINARY: Final = (".so", ".pyd", ".pyc", ".pth", ".dll", ".dylib")
"""Endings of files that Python may load in place of a source."""


def other_code(root: Path, transcript: RunRecord) -> str:
    """Differences between the code that trains here and that of the run, in words, or an empty string.

    Raises UserError where the release does not carry the run's code, OtherVersionError for a list of a later format.
    """
    if transcript.version == 1:
        return "the transcript does not say by what code, as before ClearSeek 0.2"
    began = transcript.header.get("code_sha256")
    if not (root / CODE).is_file():
        raise UserError(f"{CODE}: missing: ClearSeek writes it with every such transcript")
    listed = strict_json((root / CODE).read_bytes(), CODE)
    if is_later(listed.get("format"), FORMAT):
        raise OtherVersionError(f"{CODE}: format {listed['format']}, and this version reads {FORMAT}: use a newer one")
    if not isinstance(began, str) or listed.get("sha256") != began:
        raise UserError(f"{CODE}: not the list of the code that the run began with, whose hash its transcript has")
    published, roots = archived_sources(root), listed.get("roots")
    if not isinstance(roots, list) or not roots or not all(isinstance(each, str) for each in roots):
        raise UserError(f"{CODE}: does not name the modules of the trainer")
    if not published:
        return "the release has no source archive in code/"
    if listed != code_list(trainers_code(published, roots), roots):
        raise UserError(f"{CODE}: not the list of what the trainer in code/ imports, or not their hashes")
    recipe = transcript.header.get("recipe")
    known = CHILDS_ROOTS if isinstance(recipe, dict) and "parent" in recipe else ROOTS
    here = trainers_code(package_sources(), known)
    whole = set(map(module_of, published)).issuperset(known)
    theirs = trainers_code(published, known) if whole else listed["files"]
    changed = sorted(path for path in here.keys() | theirs.keys() if here.get(path) != theirs.get(path))
    return f"{amount(len(changed), 'file')}, such as {changed[0]}" if changed else ""


def archived_sources(root: Path) -> dict[str, bytes]:
    """Path such as ``clearseek/train/step.py`` -> source, from the archive of a release's code.

    Raises UserError where it is not plain which source Python would run.
    """
    source = Folder(root)
    found: dict[str, bytes] = {}
    modules: set[str] = set()
    tops: set[tuple[str, str]] = set()
    for path in (path for path in source.sizes if path.startswith("code/") and path.endswith(".tar.gz")):
        for name, content in members(source, path, _LONGEST_SOURCE + 1):
            parts = PurePosixPath(name).parts
            if parts[1:2] != ("clearseek",):
                continue
            tops.add((path, parts[0]))
            inside = "/".join(parts[1:])
            if ".." in parts or name.endswith(_BINARY):
                raise UserError(f"{path}: {name:.200}: does not belong among the sources of ClearSeek")
            if name.endswith(".py"):
                if len(content) > _LONGEST_SOURCE:
                    raise UserError(f"{path}: {name:.200}: longer than {_LONGEST_SOURCE:,} bytes: not read")
                if module_of(inside) in modules or len(tops) > 1:
                    raise UserError(f"{path}: {name:.200}: a second source of one module, or a second clearseek/")
                modules.add(module_of(inside))
                found[inside] = content
    return found
