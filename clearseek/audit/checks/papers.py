"""Papers that a card names, and whose each is: the model's own report, or somebody else's work.

Cards link many papers, most of them others': the attention they use, the benchmark they took, the work they follow. A
paper is the model's own where its title or its citation names the model, where the card presents it in the row of links
on top, or calls it "our paper"; a citation of several works is theirs whose title names the model, or the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, islice
from typing import Final

from clearseek.reading.card import Document
from clearseek.reading.claims import normalise
from clearseek.reading.evidence import Evidence
from clearseek.reading.mentions import Mention, mentions, own_documents, tagged
from clearseek.reading.subject import Subject
from clearseek.reading.words import WORDS, cue

_REVIEWED = cue("reviewed")
_PAPER = cue("reviewed", "paper_address")
_KIND: Final = WORDS["parts"]["paper"]
_GENERIC = re.compile(
    rf"^\W*(?:(?:our|the|this|read|see|full|official|technical|tech|research|model|original|paper|arxiv|link|static"
    rf"|badge|here|on|v?\d|pdf|详细)\W+){{0,5}}(?:技术|技術)?(?:{_KIND}|paper link|here|link|pdf)(?:\W+(?:link|pdf"
    rf"|page|arxiv|badge|paper|on arxiv|[\d.]+(?:v\d)?)){{0,3}}\W*$",
    re.I,
)
"""Words of a link that say only that it is a paper."""
_OWN = cue("own_paper")
_OTHERS = cue("others_paper")
_TERM = re.compile(r"\b(?:[A-Z]{2,}\w*|[A-Z][a-z]+[A-Z]\w*|[A-Z][a-z]*-?\d\w*)\b")
"""Names of methods and models, as LoRA, GPTQ or GPT-3."""
_ASIDE = re.compile(r"([\w.-]{2,40})[*`'\"]?\s*[(\[\uff08][^()\uff08\uff09]{0,60}$")
_NO_PAPER = cue("no_paper")
_CALLED = re.compile(rf"^\W*(?:the )?([\w.+ -]{{2,40}}?)(?: technical| tech| research)? {_KIND}\W*$", re.I)
_ELSEWHERE = cue("elsewhere")
_ENTRY = cue("citation")
_FIELD = re.compile(
    r"\b(title|url|eprint|doi|journal|booktitle|howpublished|note|author)\s*=\s*[{\"]{0,2}([^\n]{1,600})", re.I
)
_ARXIV = re.compile(r"\b(\d{4}\.\d{4,5})(?:v\d+)?\b")
_CITES = re.compile(r"cit(?:e|ing|ation)|bibtex|引用|引文", re.I)
_CITES_ALSO = re.compile(r"\balso cite|original|please also", re.I)
_MOST_ENTRIES: Final = 40


@dataclass(frozen=True)
class Paper:
    """A paper that a document names."""

    target: str
    """Its address, or ``arXiv:...``, or its title."""
    own: bool | None
    """Whether it is this model's; None where that cannot be told."""
    evidence: Evidence
    reviewed: bool = False


@lru_cache(maxsize=1)
def papers(subject: Subject) -> tuple[Paper, ...]:
    """The papers that the documents link or cite, each target once for each judgement."""
    names = tuple(filter(None, (_key(name) for name in subject.names)))
    found: dict[tuple[str, bool | None], Paper] = {}
    cited = (each for document in own_documents(subject) for each in _cited(document, names))
    for each in chain(_linked(subject, names), cited, _tagged(subject)):
        if "/" in each.evidence.file and each.own:  # documents of parts may be about the parts
            each = replace(each, own=None)
        found.setdefault((each.target, each.own), each)
    known = {each.target for each in found.values() if each.own is not None}
    return tuple(each for each in found.values() if each.own is not None or each.target not in known)


def _tagged(subject: Subject) -> Iterator[Paper]:
    """Papers of the card's metadata: of a key for one, or of a tag, which may be of any that the card links."""
    for key in ("arxiv", "paper", "paper_url", "tags"):
        for value, place in tagged(subject, key):
            if (match := _ARXIV.search(value[:300])) and (key != "tags" or value.startswith("arxiv:")):
                yield Paper(f"arXiv:{match[1]}", None if key == "tags" else True, place)


def own_papers(subject: Subject) -> list[Paper]:
    """Those that are the model's."""
    return [each for each in papers(subject) if each.own]


def _key(name: str) -> str:
    """What a title must hold to name the model: its name without a size; empty where that is too short to tell."""
    bare = re.sub(r"[-_ ]?(?:\d+(?:\.\d+)?[bm]\b.*|(?:chat|instruct|base|it|preview))$", "", name.lower())
    key = normalise(bare)
    return key if len(key) > 2 or re.search(r"\d", key) else ""


def _names(title: str, names: tuple[str, ...]) -> bool:
    """Whether a title has the model's name as words of its own, before any longer name that begins like it."""
    words = re.findall(r"[\w.+]+", title.lower())
    keys = [normalise(word.rstrip(".")) for word in words[:60]]
    spoken = {"".join(keys[place : place + size]) for place in range(len(keys)) for size in (1, 2, 3)}
    return any(name in spoken for name in names)


def _linked(subject: Subject, names: tuple[str, ...]) -> Iterator[Paper]:
    tops: dict[str, int] = {}
    for document in own_documents(subject):
        heads = (block.line for block in document.blocks if block.kind == "heading" and len(block.headings) > 1)
        tops[document.file] = next(heads, 1 << 30)
    for mention in mentions(subject):
        target, text = mention.target, mention.link.text
        said = _GENERIC.match(text) is not None and not re.match(r"\W*(?:here|link|pdf)\W*$", text, re.I)
        if (
            mention.withheld
            or mention.link.image == target
            or not (_PAPER.search(target) or (said and re.match(r"https?://", target)))
        ):
            continue
        if _NO_PAPER.search(f"{target} {text}"):
            continue
        own = _whose(mention, names, mention.link.line < tops[mention.document.file])
        yield Paper(target, own, mention.place, bool(_REVIEWED.search(target)))


def _whose(mention: Mention, names: tuple[str, ...], top: bool) -> bool | None:
    """Whose paper a link leads to, by the words that it stands in."""
    text, before = mention.link.text, mention.before[-160:]
    generic = not text or "://" in text or _GENERIC.match(text) is not None
    alone = generic and not re.search(r"\w{3}", before)
    if "et al" in f"{before[-40:]}{text}" or (any(map(_ELSEWHERE.search, mention.headings[-2:])) and not alone):
        return False
    if _names(text, names):
        return True
    if not generic and (called := _CALLED.match(text)):  # the "Bar paper"
        name = normalise(called[1])
        longer = None if any(map(name.startswith, names)) else False
        return True if any(len(name) > 2 and each.startswith(name) for each in names) else longer
    parts = [part for part in mention.label.split(" | ") if part]
    if generic and " | " in mention.label and all(_GENERIC.match(part) or _names(part, names) for part in parts):
        return True  # the row or column is called after it
    aside = _ASIDE.search(before)
    if aside and _TERM.search(aside[1]) and not _names(aside[1], names):
        return False  # "LoRA ([paper](...))"
    cues = [(match.start(), own) for own, cue in ((True, _OWN), (False, _OTHERS)) for match in cue.finditer(before)]
    nearest = max(cues)[1] if cues else None
    if generic and (mention.bar or re.fullmatch(rf"\W*(?:\w+ ){{0,2}}{_KIND}\W*", before, re.I)):
        return True if nearest is not False and (top or not mention.label) else None
    if nearest is not None:
        return nearest if nearest or not _names(before[-80:], names) else None
    if mention.bar and top and (mention.link.image or mention.around.strip() != text):
        return True
    if not generic or _names(before, names):
        return generic
    if mention.label or _TERM.search(before):
        return False
    return True if re.search(r"report|报告|報告", text, re.I) else None


def _cited(document: Document, names: tuple[str, ...]) -> Iterator[Paper]:
    """Entries of BibTeX: those whose title names the model, or where none does, the first of a section on citing."""
    entries = list(_entries(document))
    named = [_names(fields["title"], names) for fields, _ in entries]
    for number, (fields, line) in enumerate(entries):
        about = " ".join(document.lines[max(0, line - 8) : line - 1])
        cites = _CITES.search(" ".join((*document.headings[line - 1][-1:], about)))
        sole = number == 0 and not any(named) and cites and not _CITES_ALSO.search(about)
        where = next(
            filter(None, map(fields.get, ("url", "eprint", "doi", "journal", "booktitle", "howpublished"))), ""
        )
        arxiv = _ARXIV.search(" ".join(map(fields.get, ("eprint", "journal", "url", "note", "howpublished"), [""] * 5)))
        target = f"arXiv:{arxiv[1]}" if arxiv else where if _PAPER.search(where) or fields.get("booktitle") else ""
        if not target and not re.search(r"report|paper", fields["title"], re.I):
            continue
        journal = re.sub(r".*(?:arxiv|corr|preprint).*", "", fields.get("journal", ""), flags=re.I)
        reviewed = bool(fields.get("booktitle") or journal or _REVIEWED.search(where))
        place = Evidence(document.file, f"line {line}", fields["title"][:200], document.sha256)
        yield Paper(target or fields["title"], named[number] or bool(sole), place, reviewed)


def _entries(document: Document) -> Iterator[tuple[dict[str, str], int]]:
    """Fields, and line, of each entry of BibTeX that has a title."""
    for match in islice(_ENTRY.finditer(document.text), _MOST_ENTRIES):
        body = _ENTRY.split(document.text[match.end() : match.end() + 3_000], maxsplit=1)[0]
        fields = {key.lower(): value.strip(' {},"') for key, value in _FIELD.findall(body)}
        line = document.text.count("\n", 0, match.start()) + 1
        if fields.get("title") and line <= len(document.headings):
            yield fields, line
