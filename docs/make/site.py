"""The site: the pages as Zensical builds them, and the source files that they link to.

Zensical reads ``mkdocs.yml`` and builds what stands in ``build/docs``. There the repository is laid out as it is, so
links of the pages stay as they are: pages, pictures, results in JSON, and in place of every other file or folder that a
page links to, a page that shows it. So nothing on the site leads out of it but links to other hosts, and no address of
the repository is needed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from docs.make.parts import ROOT, pages

SHOWN_AS_IS = {".json", ".png", ".svg"}
"""Suffixes of files that browsers show."""
LANGUAGES = {".py": "python", ".toml": "toml", ".yml": "yaml", ".yaml": "yaml", ".sh": "sh", ".jinja": "jinja"}
CODE = re.compile(r"(^```.*?^```[^\n]*$|`[^`\n]+`)", re.S | re.M)
LINK = re.compile(r"\]\(([^)\s:#]+)(#[^)\s]*)?\)")


def build(place: Path = ROOT) -> str:
    """Build the site into ``site/`` of a folder; return what Zensical warns of, or an empty string."""
    stage(place / "build" / "docs")
    if place != ROOT:
        shutil.copyfile(ROOT / "mkdocs.yml", place / "mkdocs.yml")
    shutil.rmtree(place / "site", ignore_errors=True)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    said = subprocess.run(command, cwd=place, capture_output=True, text=True)
    words = said.stdout + said.stderr
    if said.returncode or "warning" in words.lower():
        return words
    index = (place / "site" / "search.json").read_text(encoding="utf-8")
    (place / "site" / "search.js").write_text(f"var __index = {index}", encoding="utf-8")  # read where files are opened
    return ""


def stage(folder: Path) -> None:
    """Lay out what the site is built from."""
    shutil.rmtree(folder, ignore_errors=True)
    linked: set[Path] = set()
    for name, page in pages().items():
        _write(folder / name, relinked(page.read_text(encoding="utf-8"), page.parent, linked.add))
    for source in sorted(linked):
        _write_source(folder, source)
    for name in ("site.css", "iframe-worker.js"):
        shutil.copyfile(Path(__file__).with_name(name), folder / name)


def relinked(text: str, base: Path, found: Callable[[Path], None]) -> str:
    """A page whose links to files of the repository lead to the pages that show them.

    Args:
        text: The page.
        base: Its folder, from which links start.
        found: Called with each file or folder that must be shown.
    """

    def anew(match: re.Match[str]) -> str:
        target = (base / match[1]).resolve()
        if target in known:
            return match[0]
        found(target)
        return f"]({match[1].rstrip('/')}{_ending(target)}{match[2] or ''})"

    known = set(pages().values())
    return "".join(part if part.startswith("`") else LINK.sub(anew, part) for part in CODE.split(text))


def _ending(source: Path) -> str:
    """What the name of a source has more on the site."""
    if source.is_dir():
        return "/index.md"
    return "" if source.suffix in SHOWN_AS_IS | {".md"} else ".md"


def _write_source(folder: Path, source: Path) -> None:
    """Write the page that shows a file or lists a folder, or the file itself."""
    name = source.relative_to(ROOT).as_posix()
    place = folder / f"{name}{_ending(source)}"
    head = f"---\ntitle: {name}\nsearch:\n  exclude: true\n---\n\n# {name}\n\n"
    if source.is_dir():
        files = sorted(each.name for each in source.iterdir() if each.name != "__pycache__")
        _write(place, head + "".join(f"- `{each}`\n" for each in files))
    elif place.name == source.name:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, place)
    else:
        text = source.read_text(encoding="utf-8").rstrip("\n")
        _write(place, f"{head}`````{LANGUAGES.get(source.suffix, 'text')}\n{text}\n`````\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
