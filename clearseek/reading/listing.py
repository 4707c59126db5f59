"""Lists of a release's data that come with them: which forms are known, and whether they fit the files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from clearseek.reading.source import Source

_NAMES: Final = ("manifest.json", "croissant.json", "dataset_info.json", "dataset_infos.json")
_NAMED: Final = ("name", "path", "file", "contentUrl")
_LONGEST: Final = 64_000_000


@dataclass(frozen=True, slots=True)
class Listing:
    """A list of data files."""

    path: str
    counted: bool
    """Whether it gives every file's size and how many tokens they hold, as a ClearSeek release's does."""
    problem: str = ""
    """Where it does not fit the files."""


def listing(source: Source) -> Listing | None:
    """The list of the data that says most; None where no file is one."""
    found = []
    for path in source.sizes:
        folder, _, base = path.lower().rpartition("/")
        if base in _NAMES and "data" in folder and source.sizes[path] <= _LONGEST:
            found.append(_read(source, path, source.settings(path)))
    return max(filter(None, found), key=lambda each: (each.counted, not each.problem), default=None)


def _read(source: Source, path: str, content: dict[str, Any]) -> Listing | None:
    if sizes := dict(_entries(content)):
        return Listing(path, _counted(content, sizes), _misfit(source, path, sizes))
    described = [each for each in (content, *content.values()) if isinstance(each, dict)]
    known = any(each.get(key) for each in described for key in ("splits", "features", "distribution", "recordSet"))
    return Listing(path, False) if known else None


def _entries(content: dict[str, Any]) -> Iterator[tuple[str, int | None]]:
    """Name and size of each file that is listed; of Croissant's objects those that are files of the release."""
    for key, names in (("files", _NAMED), ("shards", _NAMED), ("distribution", ("contentUrl",))):
        for each in listed if isinstance(listed := content.get(key), list) else ():
            entry = each if isinstance(each, dict) else {"name": each}
            name = next((entry[k] for k in names if isinstance(entry.get(k), str)), "")
            if name and "://" not in name:
                yield name, next((entry[k] for k in ("bytes", "size") if type(entry.get(k)) is int), None)


def _counted(content: dict[str, Any], sizes: dict[str, int | None]) -> bool:
    """Whether the shards to train on have sizes that hold the tokens counted."""
    train, width = content.get("train"), content.get("token_bytes")
    shards, tokens = (train.get("shards"), train.get("tokens")) if isinstance(train, dict) else (None, None)
    if not isinstance(shards, list) or type(tokens) is not int or not isinstance(content.get("fingerprint"), str):
        return False
    held = [sizes.get(each) for each in shards if isinstance(each, str)]
    packs = content.get("packs")
    if isinstance(packs, dict):  # rows of conversations are filled up with padding
        rows, row = packs.get("rows"), packs.get("row")
        count = rows.get("train") if isinstance(rows, dict) else None
        if type(count) is not int or type(row) is not int or count * row < tokens:
            return False
        tokens = count * row
    return tokens > 0 and width in (2, 4) and None not in held and sum(filter(None, held)) == tokens * width


def _misfit(source: Source, path: str, sizes: dict[str, int | None]) -> str:
    """A file that is listed and not here, or of another size; empty where all are."""
    folder = path.rpartition("/")[0]
    for name, size in sizes.items():
        here = next((each for each in (f"{folder}/{name}", name) if each in source.sizes), None)
        if here is None:
            return f"{name}, which {path} lists, is not here"
        if size is not None and source.stored_size(here) != size:
            return f"{here} has {source.stored_size(here):,} bytes, and {path} says {size:,}"
    return ""
