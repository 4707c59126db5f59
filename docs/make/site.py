"""The site: the pages as Zensical builds them, and the source files that they link to.

Zensical reads ``mkdocs.yml`` and builds what stands in ``build/docs``. There the repository is laid out as it is, but
for the first page (`MOVED`): pages, pictures, results in JSON, and in place of every other file or folder that a page
links to, a page that shows it. So nothing on the site leads out of it but links to other hosts, and no address of the
repository is needed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from docs.make.parts import ROOT, pages

MOVED = {"docs/index.md": "index.md", "README.md": "repository.md"}
"""The site begins with another page than the repository."""
SHOWN_AS_IS = {".md", ".json", ".png", ".svg"}
"""Suffixes of files that are shown as they are."""
LANGUAGES = {".py": "python", ".toml": "toml", ".yml": "yaml", ".yaml": "yaml", ".sh": "sh", ".jinja": "jinja"}
CODE = re.compile(r"(^```.*?^```[^\n]*$|`[^`\n]+`)", re.S | re.M)
COLOUR = re.compile("\x1b\\[[0-9;]*m")
LINK = re.compile(r"\]\(([^)\s:#]+)(#[^)\s]*)?\)")


def build(place: Path = ROOT) -> str:
    """Build the site into ``site/`` of a folder; return what Zensical warns of, or an empty string."""
    stage(place / "build" / "docs")
    if place != ROOT:
        shutil.copyfile(ROOT / "mkdocs.yml", place / "mkdocs.yml")
    shutil.rmtree(place / "site", ignore_errors=True)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    said = subprocess.run(command, cwd=place, capture_output=True, text=True)
    words = COLOUR.sub("", said.stdout + said.stderr)
    if said.returncode or "warning" in words.lower():
        return words
    index = (place / "site" / "search.json").read_text(encoding="utf-8")
    (place / "site" / "search.js").write_text(f"var __index = {index}", encoding="utf-8")  # read where files are opened
    return ""


def stage(folder: Path) -> None:
    """Lay out what the site is built from."""
    shutil.rmtree(folder, ignore_errors=True)
    linked: set[Path] = set()
    for page in pages().values():
        _write(folder / place(page), relinked(page.read_text(encoding="utf-8"), page, linked.add))
    for source in sorted(linked):
        _write_source(folder, source)
    for name in ("site.css", "iframe-worker.js"):
        shutil.copyfile(Path(__file__).with_name(name), folder / name)


def place(source: Path) -> str:
    """Where a page, or the page that shows a file or folder, stands in what the site is built from."""
    name = source.relative_to(ROOT).as_posix()
    if source.is_dir():
        return f"{name}/index.md"
    return MOVED.get(name, name if source.suffix in SHOWN_AS_IS else f"{name}.md")


def relinked(text: str, page: Path, found: Callable[[Path], None]) -> str:
    """The text of a page, with links to where the site has what they lead to.

    Args:
        text: The text.
        page: Where the page stands in the repository.
        found: Called with each file or folder that is linked and is no page.
    """
    known, above = set(pages().values()), PurePosixPath(place(page)).parent

    def anew(match: re.Match[str]) -> str:
        target = (page.parent / match[1]).resolve()
        if target not in known:
            found(target)
        return f"]({os.path.relpath(place(target), above)}{match[2] or ''})"

    return "".join(part if part.startswith("`") else LINK.sub(anew, part) for part in CODE.split(text))


def _write_source(folder: Path, source: Path) -> None:
    """Write the page that shows a file or lists a folder, or the file itself."""
    name, to = source.relative_to(ROOT).as_posix(), folder / place(source)
    head = f"---\ntitle: {name}\nsearch:\n  exclude: true\n---\n\n# {name}\n\n"
    if source.is_dir():
        files = sorted(each.name for each in source.iterdir() if each.name != "__pycache__")
        _write(to, head + "".join(f"- `{each}`\n" for each in files))
    elif source.suffix in SHOWN_AS_IS:
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, to)
    else:
        text = source.read_text(encoding="utf-8").rstrip("\n")
        _write(to, f"{head}`````{LANGUAGES.get(source.suffix, 'text')}\n{text}\n`````\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
