"""Comparison of the code that trains here with the release's: its list, its archive, and this ClearSeek."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Final

from clearseek.audit.read.archive import members
from clearseek.audit.read.source import Folder
from clearseek.errors import OtherVersionError, UserError
from clearseek.jsontext import strict_json
from clearseek.release.code import CODE, FORMAT, code_list, package_sources, trainers_code

_LONGEST_SOURCE: Final = 10_000_000


def other_code(root: Path) -> str:
    """Differences between the code that trains here and the release's, in words, or an empty string.

    Raises UserError where the list is not of the code that the release carries, OtherVersionError where the list's
    format is unknown to this version.
    """
    published = archived_sources(root)
    if not published:
        return "the release has no source archive in code/"
    if not (root / CODE).is_file():
        return f"the release has no {CODE}, as before ClearSeek 0.2"
    listed = strict_json((root / CODE).read_bytes(), CODE)
    if listed.get("format") != FORMAT:
        raise OtherVersionError(f"{CODE}: format {listed.get('format')!r:.60}: this version reads {FORMAT}")
    if listed != code_list(trainers_code(published)):
        raise UserError(f"{CODE}: not the list of what the trainer in code/ imports, or not their hashes")
    here = trainers_code(package_sources())
    theirs: dict[str, str] = listed["files"]
    changed = sorted(path for path in here.keys() | theirs.keys() if here.get(path) != theirs.get(path))
    return f"{len(changed)} files, such as {changed[0]}" if changed else ""


def archived_sources(root: Path) -> dict[str, bytes]:
    """Path such as ``clearseek/train/step.py`` -> source, from the archives of a release's code."""
    source = Folder(root)
    archives = [path for path in source.sizes if path.startswith("code/") and path.endswith(".tar.gz")]
    return {
        str(PurePosixPath(*parts[1:])): content
        for path in archives
        for name, content in members(source, path, _LONGEST_SOURCE)
        if (parts := PurePosixPath(name).parts)[1:2] == ("clearseek",) and name.endswith(".py") and ".." not in parts
    }
