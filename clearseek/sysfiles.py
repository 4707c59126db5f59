"""Files that an operating system leaves in folders unasked, such as ``.DS_Store``."""

from __future__ import annotations

_MAKERS = {
    ".DS_Store": "macOS's Finder",
    ".localized": "macOS's Finder",
    "desktop.ini": "Windows' Explorer",
    "thumbs.db": "Windows' Explorer",
    "ehthumbs.db": "Windows' Explorer",
    ".directory": "KDE's Dolphin",
}
_FOLD = {name.lower(): maker for name, maker in _MAKERS.items()}


def system_file(path: str) -> str:
    """Program that leaves files of this name, such as ``macOS's Finder``, or an empty string."""
    name = path.rpartition("/")[2]
    if name.startswith("._") and len(name) > 2:
        return "macOS, on a disk of another system"
    return _FOLD.get(name.lower(), "")
