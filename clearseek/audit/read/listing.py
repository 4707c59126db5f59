"""Lists of a release's data that come with them: which forms are known, and whether they fit the files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from clearseek.audit.read.source import Source

_NAMES: Final = ("manifest.json", "croissant.json", "dataset_info.json", "dataset_infos.json")
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
    folder = path.rpartition("/")[0]
    entries = list(_entries(content))
    if entries:
        sizes = {name: size for name, size in entries if "://" not in name}
        return Listing(path, _counted(content, sizes), _misfit(source, path, folder, sizes))
    if any(
        isinstance(each, dict) and (each.get("splits") or each.get("features")) for each in (content, *content.values())
    ):
        return Listing(path, False)
    if content.get("distribution") or content.get("recordSet"):
        return Listing(path, False)
    return None


def _entries(content: dict[str, Any]) -> Iterator[tuple[str, int | None]]:
    """Name and size of each file that is listed, a size where one is given."""
    for key in ("files", "shards", "distribution"):
        for each in listed if isinstance(listed := content.get(key), list) else ():
            if isinstance(each, str):
                yield each, None
            elif isinstance(each, dict):
                name = next(
                    (each[k] for k in ("name", "path", "file", "contentUrl") if isinstance(each.get(k), str)), ""
                )
                size = next((each[k] for k in ("bytes", "size") if type(each.get(k)) is int), None)
                if name and (key != "distribution" or "contentUrl" in each):
                    yield each["contentUrl"] if key == "distribution" else name, size


def _counted(content: dict[str, Any], sizes: dict[str, int | None]) -> bool:
    """Whether the shards to train on have sizes that hold the tokens counted."""
    train = content.get("train")
    shards = train.get("shards") if isinstance(train, dict) else None
    if not isinstance(train, dict) or not isinstance(shards, list) or not isinstance(content.get("fingerprint"), str):
        return False
    tokens, width = train.get("tokens"), content.get("token_bytes")
    held = [sizes.get(each) for each in shards if isinstance(each, str)]
    return (
        type(tokens) is int
        and width in (2, 4)
        and tokens > 0
        and all(type(size) is int for size in held)
        and sum(size or 0 for size in held) == tokens * width
    )


def _misfit(source: Source, path: str, folder: str, sizes: dict[str, int | None]) -> str:
    """A file that is listed and not here, or of another size; empty where all are."""
    for name, size in sizes.items():
        here = next((each for each in (f"{folder}/{name}", name) if each in source.sizes), None)
        if here is None:
            return f"{name}, which {path} lists, is not here"
        if size is not None and source.stored_size(here) != size:
            return f"{here} has {source.stored_size(here):,} bytes, and {path} says {size:,}"
    return ""
