"""Whether a file is what its name says: a card with words in it, data with a beginning that such data have.

A name is a claim. A file of no bytes called report.pdf is no report, one byte called train.bin trains nothing, and a
plot called datasheet.png is no datasheet. So a file counts as present when its beginning is of the form that its name
says and there is enough of it; what is said in it is for other checks. A file that cannot be read, or that only points
to bytes kept elsewhere, is neither there nor missing: that is not known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from clearseek.audit.evidence import Answer, Grade, Question, Row
from clearseek.errors import UserError
from clearseek.filetypes import HEAD_BYTES, LFS_START, UTF8_BOM, recognise
from clearseek.reading.evidence import Evidence
from clearseek.reading.source import Source
from clearseek.reading.words import WORDS, any_of

Kind = Literal["report", "data card", "policy", "summary", "results", "data", "tokenizer"]
_HEAD: Final = 65_536
_TEXT: Final = 400_000
"""Bytes of a text that are read."""
_JSON: Final = 4_000_000
"""Bytes of a JSON file that is read whole to see whether it is one."""
_VOCABULARY: Final = 64_000_000
"""Bytes of a tokenizer's."""
_MOST_LOOKED_AT: Final = 40
"""Files of one kind that are opened, where the first are not what they seem."""
_TEXTS: Final = (".md", ".txt", ".rst", ".tex", ".html", ".htm")
_PAGES: Final = {".pdf": {"PDF"}, ".docx": {"Office", "zip"}, ".odt": {"Office", "zip"}}
_SHORTEST_PAGES: Final = 10_000
_RECORDS: Final = {
    ".parquet": {"Parquet"}, ".arrow": {"Arrow"}, ".gz": {"gzip"}, ".zst": {"zstd"}, ".npz": {"NumPy", "zip"},
}  # fmt: skip
"""Kinds of file (:mod:`clearseek.filetypes`) that a name's ending says."""
_SMALLEST_POINTED: Final = 1_000
"""Bytes that something worth a pointer has."""
_LEAST: Final[dict[Kind, int]] = {"data": 100}
"""Bytes that a file of records has at least."""
_WORD = re.compile(r"[^\W\d_]{2,40}")
_CJK = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]+")
_WANTED: Final = WORDS["documents"]
SMALLEST_VOCABULARY: Final = 16


@dataclass
class Sifted:
    """Files of one name, told apart."""

    real: list[str] = field(default_factory=list)
    """What they are called, as far as it was looked at."""
    hollow: dict[str, str] = field(default_factory=dict)
    """File -> why it is not what it is called."""
    unread: dict[str, str] = field(default_factory=dict)
    """File -> why that is not known."""
    pointed: list[str] = field(default_factory=list)
    """Those of the unread files that a pointer stands for, to as many bytes as such a file has."""
    kind: Kind = "report"

    def here(self, source: Source, question: Question, most: int) -> Row:
        """The yes of files that are real, the first of them named."""
        return question.yes(Grade.PRESENT, ", ".join(self.real[:most]), *map(source.whole, self.real[:most]))

    def missing(self, source: Source, question: Question, reason: str) -> Row:
        """The answer where none is real: unknown if one could not be read, else no, for `reason` without any file.

        Files that a pointer stands for are published, with name, size and hash, and only not in this copy.
        """
        if self.pointed:
            named = ", ".join(f"{path} ({source.stored_size(path):,} bytes)" for path in self.pointed[:4])
            reason = f"published, and not in this copy, which was made without large files: {named}"
            whole: Answer = "partly" if self.kind in ("data", "summary") else "yes"
            return question.answer(whole, Grade.LINKED, reason, *map(source.whole, self.pointed[:4]))
        found = self.unread or self.hollow
        if not found:
            return question.no(Grade.ABSENT, reason)
        answer: Answer = "unknown" if self.unread else "no"
        reason = "; ".join(f"{path} {why}" for path, why in list(found.items())[:4])
        reason = reason if self.unread else f"named like one and holds nothing: {reason}"
        places = tuple(Evidence(path, sha256=source.hashes.get(path, "")) for path in list(found)[:4])
        return question.answer(answer, Grade.CLAIMED, reason, *places)


def sift(source: Source, paths: Iterable[str], kind: Kind, enough: int = 6) -> Sifted:
    """Tell the files apart; once `enough` are real, the others count as they do unless they are empty."""
    out, looked = Sifted(kind=kind), 0
    for path in paths:
        if (pointer := source.pointer(path)) is not None:
            out.unread[path] = f"is a pointer to {pointer.size:,} bytes that are not here"
            if pointer.size >= _SMALLEST_POINTED:
                out.pointed.append(path)
            continue
        if source.sizes[path] and (len(out.real) >= enough or looked >= _MOST_LOOKED_AT):
            if out.real:
                out.real.append(path)
            continue
        looked += bool(source.sizes[path])
        try:
            if why := fault(source, path, kind):
                out.hollow[path] = why
            else:
                out.real.append(path)
        except UserError as error:
            out.unread[path] = f"cannot be judged: {error}"
    return out


def fault(source: Source, path: str, kind: Kind) -> str:
    """Why a file is not what its name says; empty where it is. Raises UserError where that cannot be seen."""
    size, base = source.sizes[path], path.rpartition("/")[2].lower()
    if not size:
        return "is empty"
    ending = "." + base.rpartition(".")[2] if "." in base else ""
    head = source.read(path, _HEAD)
    found = recognise(head[:HEAD_BYTES], path)
    if head.startswith(LFS_START) or (found and found.name.endswith("pointer")):
        raise UserError("it points to bytes that are not here")
    if kind == "tokenizer":
        return _no_tokenizer(source, path, ending)
    if size < _LEAST.get(kind, 0):
        return f"has {size} bytes"
    if kinds := (_PAGES if kind in _WANTED else _RECORDS).get(ending):
        if found is None or found.name not in kinds:
            return f"does not begin as {ending} files do"
        few = kind in _WANTED and size <= _SHORTEST_PAGES  # pages are not taken apart
        return f"has {size:,} bytes, too few for pages of text" if few else ""
    if ending in (".json", ".jsonl") and kind in ("data card", "data", "results"):
        return _no_json(source, path, ending == ".jsonl")
    if kind in _WANTED:
        return _no_document(source, path, ending, kind)
    if kind == "results":
        return "" if re.search(rb"\d", head) else "has no number in it"
    return "is one byte over and over" if len(set(head)) < 2 else ""


def _no_document(source: Source, path: str, ending: str, kind: Kind) -> str:
    """A document has words about its subject."""
    if ending not in _TEXTS and ending:
        return f"is not of a kind that documents are ({ending})"
    text = source.read(path, _TEXT).decode("utf-8", errors="replace")
    wanted, words = _WANTED[kind], different_words(text)
    if words < wanted["words"]:
        return f"holds {words} different words"
    named = sum(bool(any_of(subject).search(text)) for subject in wanted["subjects"])
    return "" if named >= wanted["named"] else "says nothing of what it is called after"


def different_words(text: str) -> int:
    """Words of a text, each counted once; a character of Chinese, Japanese or Korean is one."""
    characters = {each for run in _CJK.findall(text) for each in run}
    return len({each.lower() for each in _WORD.findall(_CJK.sub(" ", text))} | characters)


def _parsed(raw: bytes) -> Any:
    """A JSON value; None where the bytes are none."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def _no_json(source: Source, path: str, lines: bool) -> str:
    """JSON that parses and holds something; of JSON lines the first, and of what is too long the beginning."""
    most = _HEAD if lines else _JSON
    raw, whole = source.read(path, most).removeprefix(UTF8_BOM).lstrip(), source.sizes[path] <= most
    if lines:
        raw, end, _ = raw.partition(b"\n")
        whole = whole or bool(end)
    if not whole:
        return "" if raw[:1] in (b"{", b"[") else "is not JSON"
    value = _parsed(raw)
    return "is not JSON" if value is None else "" if value or lines else "is JSON that holds nothing"


def _no_tokenizer(source: Source, path: str, ending: str) -> str:
    """A tokenizer has a vocabulary."""
    size = source.sizes[path]
    if ending != ".json":
        return f"has {size} bytes, too few for a vocabulary" if size <= 1000 else ""
    if size > _VOCABULARY:
        raise UserError(f"larger than {_VOCABULARY:,} bytes")
    value = _parsed(source.read(path, size))
    if not isinstance(value, dict):
        return "is no JSON object"
    model = value.get("model")
    words = model.get("vocab") if isinstance(model, dict) else value if path.endswith("vocab.json") else None
    count = len(words) if isinstance(words, dict | list) else 0
    return f"has a vocabulary of {count}" if count < SMALLEST_VOCABULARY else ""
