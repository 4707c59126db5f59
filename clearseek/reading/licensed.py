"""What a card says of licences, as people write it: a tag, a badge, a bullet, a row, a short section, a sentence.

A statement names licences and what they are for. "The code is under MIT, the weights under CC-BY-NC" is two statements:
each name belongs to the words before it. Where no word says what for, the heading does, and else it is for the whole
release. What is said of others (a base "originally" under Apache, third parties) states nothing of this one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, islice
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from clearseek.licences.named import CONTEXT, Named, by_url, named
from clearseek.licences.places import covers, is_licence
from clearseek.licences.table import Kind, Licence, choices, lookup
from clearseek.reading.card import Document, Link, shorten
from clearseek.reading.evidence import Evidence
from clearseek.reading.identity import kin, title_names
from clearseek.reading.parts import Sentence
from clearseek.reading.subject import Subject
from clearseek.reading.topics import Own, about
from clearseek.reading.words import cue

_MOST = 60
_MOST_SENTENCES = 1_000
"""Sentences, and cells, that speak of a licence and are looked at."""
_LONGEST = 1_500
_KIND_WORDS: Final[tuple[tuple[Kind, str], ...]] = (
    ("weights",
     r"\b(?:models?|weights?|checkpoints?|parameters|modell\w*|gewichte\w*|modèles?|poids|modelos?|pesos|modelli)\b"
     r"|模型|权重|權重|モデル|모델|модел|вес"),
    ("code",
     r"\b(?:(?:source )?codes?|codebase|software|scripts|implementation|library|package|toolkit"
     r"|quell\w*code|logiciel|código|codice)\b"
     r"|代码|源码|源代码|代碼|コード|코드|код\b"),
    ("data",
     r"\b(?:data|data ?sets?|corpus|corpora|daten\w*|données|datos|dados)\b|数据|數據|データ|데이터"),
    ("documents", r"\b(?:documentation|docs|documents?|report|paper|images and text)\b|文档"),
)  # fmt: skip
KIND_WORDS: Final = {kind: re.compile(words, re.I) for kind, words in _KIND_WORDS}
"""Words for what a licence may be for."""
_SECTION = re.compile(
    r"\W{0,4}(?:\d+\W+)?(?:[\w&/ ]{0,40}\b)?(?:licen[cs]\w*|lizenz\w*|licencia|licença|licenza|terms of use)"
    r"\b.{0,40}|.{0,12}(?:许可|許可|协议|協議|授权|ライセンス|라이선스|лиценз).{0,12}",
    re.I,
)
_OF_OTHERS = re.compile(
    r"\boriginal(?:ly)?\b|\bthird[- ]part|\bwhich (?:is|are|was|were)(?: \w+){0,2} (?:licen[cs]ed|released)"
    r"|\b(?:its|their|the) base model(?:'s)? (?:is|was|licen)|\bunlike\b|\bwhereas\b|\bvs\b|\bcompar"
    r"|\bnot (?:under|licensed|released|covered)\b|\bno longer\b|\bprevious(?:ly)?\b|\bformerly\b|\buntil\b"
    r"|\b(?:majority|parts?|portions?) of\b|\bused to be\b|\bother models\b|原始|第三方",
    re.I,
)
"""Says that a licence is of something else, or no more."""
_WITH_OTHERS = re.compile(
    r"\bdependenc|\binspired\b|\bcompatible\b|\bdemo\b|\bthank|\bborrow|\badapted from\b|\bcontribut", re.I
)
"""Says so where the words next to it do not say that it is of this model."""
_FORMER = re.compile(r"\W{0,3}(?:originally|previously|formerly)\b|\s+to\s", re.I)
_ANEW = re.compile(
    r"\bre-?licen[cs]|\blicen[cs]e (?:has |was )?(?:been )?(?:changed|updated)|\bnow (?:\w+ )?under\b", re.I
)
_DATED = re.compile(r"^\W*(?:20[12]\d[-/. ]\d|\[?20[12]\d\b|\w{3,9} \d{0,2},? ?20[12]\d)|\b(?:was|were)\b")
_VERSION_FIRST = re.compile(r"\bversion (\d(?:\.\d)?) of the ([A-Z][\w ]{1,60}?) licen[cs]e", re.I)
_FOLLOWS = re.compile(r"\b(?:following|below) licen[cs]e\b|\blicen[cs]e below\b", re.I)
_CALLED = re.compile(r"(?:[A-Z][\w.-]* ){1,6}(?:[Ll]icen[cs]e|[Aa]greement|[Tt]erms)\b|《[^》]*(?:许可|协议)[^》]*》")
_HERE = re.compile(r"\b(?:LICEN[CS]E|COPYING)(?:[-_.][\w.-]{1,40})?(?![\w])")
_APART = cue("apart")
"""Says that the weights are under something else, without its name."""
_FILE = re.compile(r"\.(?:tar|zip|tgz|gz|bin|safetensors|gguf|pth?)\b.*")
_PART = re.compile(r";\s+(?=\S)")
_MODEL = re.compile(
    r"\b[A-Za-z][\w.]{1,40}(?:[- ][\w.]{1,20}){0,4}?[- ]\d+(?:\.\d+)?(?:[bBmM]|x\d+[bB]|(?<=-2[3-9][01]\d))\b"
    r"(?:-[\w.]+)*"
)
"""A model's name with its size, or with its month: ``Foo-Large-2407``."""
_SAID_OF = re.compile(r"(?P<what>[A-Z][\w.]{1,30}(?:[ -][\w.]{1,20}){0,3}?) (?:is|are|was|were|has|have) ")
_ASIDE = re.compile(r"acknowledg|thank|citation|related|reference|致谢|引用|upstream|third[- ]party", re.I)
_OF_DATA = re.compile(r"\bdata(?:\b|sets?)|corpus|数据", re.I)
_NAMES_ONE = re.compile(
    r"\W*(?:model |weights? |code |data )?"
    r"(?:licen[cs]e(?: type| name)?|lizenz|licencia|licença|licenza|许可证?|许可协议|协议)"
    "\\s*[:\uff1a=]\\s*(?P<name>\\S.{1,80}?)\\W*",
    re.I,
)
_NO_NAME = re.compile(
    r"\bsee\b|\bfile\b|\blink\b|below|above|\btbd\b|\bother\b|unknown|none|n/a|\bhere\b|\.md|\.txt|https?:", re.I
)
_EITHER = re.compile(r"\bor\b|\beither\b|\bdual|\boder\b|\bou\b|或", re.I)
_FOR = re.compile(r"\W{0,3}(?:licen[cs]e)?\W{0,3}(?:for|covers|applies to|\(|für|pour|para)(?P<what>[^.;]{0,40})", re.I)


_NOT_KINDS = re.compile(r"\bopen[- ]source\b|\blanguage models?\b(?= \()|\bmodel card\b", re.I)
_NEAR = 40
"""Characters between the members of a list of kinds: "the code, the weights and all data"."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A licence that is named for something."""

    kinds: frozenset[Kind]
    """What for; empty: for the whole release."""
    licences: tuple[Licence, ...]
    """Those that hold, or between which one may choose; empty where the name is not known."""
    either: bool
    name: str
    """The name as it is written."""
    place: Evidence
    tag: bool = False
    """It is in the metadata."""
    file: str = ""
    """A file here that it points to instead of naming a licence."""

    @property
    def deciding(self) -> Licence | None:
        """The licence that decides: the freest of a choice, else the strictest."""
        ranked = sorted(self.licences, key=lambda each: each.restricted, reverse=not self.either)
        return ranked[0] if ranked else None


@lru_cache(maxsize=2)
def statements(subject: Subject) -> tuple[Statement, ...]:
    """All that the card says of licences: the metadata first, then as it stands there."""
    card = subject.card
    if card is None:
        return ()
    found = [*_tags(subject.metadata.value or {}, card)]
    for each in chain(_badges(subject, card), _sentences(subject, card), _rows(subject, card)):
        if len(found) >= _MOST:
            break
        if not any(_key(each) == _key(other) and not other.tag for other in found):
            found.append(each)
    anew = [each for each in found if each.licences and _ANEW.search(each.name)]
    return tuple(each for each in found if not anew or each in anew or each.tag or not _DATED.search(each.place.quote))


def _key(each: Statement) -> tuple[object, ...]:
    """What a statement says; a name that is not known is like no other."""
    return (
        each.kinds,
        tuple(licence.id for licence in each.licences),
        each.file,
        "" if each.licences or each.file else each.name,
    )


def _tags(metadata: dict[str, Any], card: Document) -> Iterator[Statement]:
    """The metadata's licence: ``license``, or ``license_name`` and ``license_link`` where it is another."""
    tag = metadata.get("license")
    words = [str(each) for each in tag] if isinstance(tag, list) else [tag] if isinstance(tag, str) else []
    line = next((n for n, text in enumerate(card.lines, 1) if text.startswith(("license:", "license_name:"))), 1)
    known: list[Licence] = []
    either = False
    for word in words[:20]:
        either = either or bool(re.search(r"\sor\s", word, re.I))
        known += [licence] if (licence := lookup(word)) else choices(word)
    name, link = metadata.get("license_name"), metadata.get("license_link")
    if not known and isinstance(name, str):
        words = [name]
        found = lookup(name) or next((each.licence for each in named(name.replace("-", " "), context=True)), None)
        known = [found] if found else []
    if not known and isinstance(link, str) and (found := by_url(link)) is not None:
        known = [found]
    if words:
        said = " AND ".join(words)  # a list does not say that one may choose
        whole = len(known) >= len(words)
        place = Evidence(card.file, f"line {line}, key license", said, card.sha256)
        yield Statement(frozenset(), tuple(known) if whole else (), either, said, place, tag=True)
    if tag and known and isinstance(name, str) and name not in words and not _agrees(name, known):
        line = next((n for n, text in enumerate(card.lines, 1) if text.startswith("license_name:")), line)
        place = Evidence(card.file, f"line {line}, key license_name", name, card.sha256)
        yield Statement(frozenset(), (), False, name[:200], place)


def _agrees(name: str, known: list[Licence]) -> bool:
    """Whether a second name in the metadata is one of the known licences'."""
    found = [each.licence for each in named(name.replace("-", " "), context=True)]
    return lookup(name) in known or (bool(found) and all(each in known for each in found))


def _badges(subject: Subject, card: Document) -> Iterator[Statement]:
    """Pictures with words such as ``License-Apache_2.0``, unless they lead to somebody else's repository."""
    for link in card.links:
        address = link.image or link.target
        if not ("shields.io" in address or "badge" in address.lower()):
            continue
        if link.image and link.image != link.target and subject.is_own(link.target) is False:
            continue
        address = unquote(urlsplit(address).path.rpartition("/badge/")[2] or "")
        words = re.sub(r"_+", " ", address.replace("--", "\0").replace("-", " ")).replace("\0", "-")
        for text in (f"{link.text} ", words):
            if CONTEXT.search(text) and (names := named(text)):
                yield _statement(text, names[:1], (), card.at(link.line, text.strip()))
                break
        else:
            label, *rest = address.replace("--", "\0").split("-")
            name = re.sub(r"[_\0]+", " ", rest[0]).strip() if len(rest) > 1 else ""
            here = unquote(link.target).removeprefix("./")
            here = here if here in subject.source.sizes and is_licence(here) else ""
            if re.search(r"licen[cs]e", label, re.I) and name and not _NO_NAME.search(name):
                yield Statement(_kinds(label), (), False, name, card.at(link.line, words), file=here)


def _sentences(subject: Subject, card: Document) -> Iterator[Statement]:
    own = own_names(subject)
    looked = 0
    for block in card.blocks:
        if any(_ASIDE.search(heading) for heading in block.headings[1:]):
            continue
        section = bool(block.headings) and bool(_SECTION.fullmatch(block.headings[-1])) and block.kind != "heading"
        for sentence in block.sentences:
            text = sentence.text[:_LONGEST]
            if not (section or CONTEXT.search(text)) or _of_others(subject, text, block.headings):
                continue
            looked += 1
            if looked > _MOST_SENTENCES:
                return
            begin = 0
            for match in (*_PART.finditer(text), None):
                end = match.end() if match else len(text)
                yield from _clause(subject, card, own, sentence, (begin, end), section)
                begin = end


def _clause(
    subject: Subject, card: Document, own: Own, sentence: Sentence, span: tuple[int, int], section: bool
) -> Iterator[Statement]:
    """What a clause of a sentence says of licences."""
    text, headings = _VERSION_FIRST.sub(r"\2 License \1", sentence.text[span[0] : span[1]]), sentence.headings
    place = card.at(sentence.line_at(span[0]), text.strip())
    links = [each for each in sentence.links if span[0] <= each.place - sentence.begin < span[1]]
    pictures = [(each.place - sentence.begin - span[0], len(each.text)) for each in links if each.image]
    names: list[Named] = []
    ours, end = True, 0
    for each in named(text, context=section):
        before = text[end : each.begin]
        told = about(text[: each.begin] if not end else before, own, text[each.end : each.end + 60], section)
        ours, end = ours if told is None else told, each.end
        aside = bool(_OF_OTHERS.search(before) or _FORMER.match(text, each.end, each.end + 20))
        aside = aside or (told is None and _WITH_OTHERS.search(before) is not None)
        picture = any(begin <= each.begin < begin + size for begin, size in pictures)
        if ours and not aside and not picture and not _is_anothers(subject, text, each):
            names.append(each)
    kind = sentence.block.kind
    if names and ((section and len(text) < 200) or kind != "heading" or len(text) < 80):
        named_so = kind == "item" and _is_sized(subject, text)  # of several models, each with its own licence
        for statement in _each(text, names, headings, place):
            yield replace(statement, kinds=frozenset(("weights",))) if named_so and not statement.kinds else statement
    elif _APART.search(text) and about(text, own, section=section) is not False:
        if not any(is_licence(path) and "weights" in (covers(path) or ()) for path in subject.source.sizes):
            yield Statement(frozenset(("weights",)), (), False, shorten(text.strip(), 80), place)
    elif end or _OF_OTHERS.search(text) or about(text, own, section=section) is False:
        return
    elif section and (known := _linked(tuple(links))) is not None:
        yield _statement(text, [Named(known, len(text), len(text))], headings, place)
    elif (only := _NAMES_ONE.fullmatch(text)) is not None and not _NO_NAME.search(only["name"]):
        yield Statement(_kinds(text[: only.start("name")]), (), False, only["name"], place)
    else:
        yield from _pointing(subject, card, text, links, place)


def _pointing(subject: Subject, card: Document, text: str, links: list[Link], place: Evidence) -> Iterator[Statement]:
    """A licence of the weights that is not named: one that follows, a file here, or what a link is called."""
    kinds = _kinds(_CALLED.sub(" ", text)) or (_kinds("weights") if _is_sized(subject, text) else frozenset())
    if not kinds & {"weights", "code"}:
        return
    if _FOLLOWS.search(text) and (line := re.search(r"\d+", place.where)) is not None:
        after = "\n".join(card.lines[int(line[0]) : int(line[0]) + 12])
        if names := named(after, context=True)[:1]:
            yield Statement(kinds, (names[0].licence,), False, text, place)
        return
    files = [unquote(each.target).removeprefix("./").partition("#")[0] for each in links]
    files += [match[0].rstrip(".") for match in _HERE.finditer(text)]
    here = next((path for path in files if path in subject.source.sizes and is_licence(path)), "")
    here = here if not here.lower().endswith(".pdf") else ""
    called = next((each.text for each in links if _CALLED.fullmatch(each.text.strip()) and not each.image), "")
    if here:
        yield Statement(kinds, (), False, text.strip()[:200], place, file=here)
    elif called and len(called) < 120:
        yield Statement(kinds, (), False, called, place)


def own_names(subject: Subject) -> Own:
    """The names of the model, of what the card is about, and of the makers."""
    card = subject.card
    title = next((block.text for block in card.blocks if block.kind == "heading"), "") if card is not None else ""
    return Own((*subject.names, *title_names(title)), tuple(subject.identity.makers))


def _is_sized(subject: Subject, text: str) -> bool:
    """Whether a text names this model with its size, or one of its files."""
    sized = [each for each in subject.names if _MODEL.search(each)] or subject.names
    found = (_FILE.sub("", part) for name in _MODEL.findall(text[:_LONGEST]) for part in {name, name.split()[-1]})
    return any(kin(name, each) in ("same", "form") for name in found for each in sized)


def _of_others(subject: Subject, text: str, headings: tuple[str, ...]) -> bool:
    """Whether a sentence names other models, by their sizes or files, and neither this one nor what it stands under."""
    found = _MODEL.findall(text)
    return bool(found and subject.names) and not (
        any(_is_sized(subject, name) for name in found)
        or any(name.split()[-1] in heading for name in found for heading in headings)
    )


def _is_anothers(subject: Subject, text: str, name: Named) -> bool:
    """Whether a sentence says of another model, which is linked or whose name the terms bear, what it is under."""
    match = _SAID_OF.match(text)
    words = match["what"] if match else ""
    if not words or not subject.names or subject.kin(words):
        return False
    own = name.licence.id.startswith("LicenseRef") and words.lower() in name.licence.name.lower()
    others = (each.name for each in subject.repositories if not subject.kin(each.name))
    return own or (not _kinds(words) and any(kin(other, words) in ("same", "form") for other in others))


def _linked(links: tuple[Link, ...]) -> Licence | None:
    return next((known for link in links if (known := by_url(link.target)) is not None), None)


def _rows(subject: Subject, card: Document) -> Iterator[Statement]:
    """Cells of tables, in a row or a column that is called a licence."""
    looked = (each for each in card.cells if each.column and len(each.text) < _LONGEST)
    columns: dict[tuple[tuple[str, ...], int], list[Statement]] = {}
    for cell in islice(looked, 10 * _MOST_SENTENCES):
        first = cell.row[0] if cell.row else ""
        head = cell.header[cell.column] if cell.column < len(cell.header) else ""
        title = next((each for each in (first, head) if len(each) < 40 and CONTEXT.search(each)), None)
        if title is None:
            continue
        if title == head and (
            _OF_DATA.search(" ".join(cell.header)) or (subject.names and not _is_this(subject, first))
        ):
            continue  # each row is of another data set or model
        names = named(cell.text, context=True)
        known = names[0].licence if names else _linked(cell.links)
        if known is not None:
            found = Statement(_kinds(title), (known,), False, cell.text, card.at(cell.line, " | ".join(cell.row)))
            columns.setdefault((cell.header if title == head else (title,), cell.column), []).append(found)
    for said in columns.values():
        if len({each.licences for each in said}) == 1:  # else it depends on which of its sizes or states is meant
            yield from said


def _is_this(subject: Subject, name: str) -> bool:
    return subject.kin(name) in ("same", "form")


def _each(text: str, names: list[Named], headings: tuple[str, ...], place: Evidence) -> Iterator[Statement]:
    """A statement for each group of names that are for the same."""
    begin = 0
    group: list[Named] = []
    for name in names:
        between = text[group[-1].end : name.begin] if group else ""
        if _kinds(between) or between.count(".") > 1:
            yield _statement(text, group, headings, place, begin)
            begin, group = group[-1].end, []
        group.append(name)
    yield _statement(text, group, headings, place, begin)


def _statement(text: str, group: list[Named], headings: tuple[str, ...], place: Evidence, begin: int = 0) -> Statement:
    """What a group of names is for: as the words before it say, those after it, or the headings."""
    kinds = _nearest(text[begin : group[0].begin])
    if not kinds and (match := _FOR.match(text, group[-1].end)):
        kinds = _kinds(match["what"])
    if not kinds and headings and _SECTION.fullmatch(headings[-1]):
        kinds = _kinds(headings[-1])
    if not kinds and any(_OF_DATA.search(heading) for heading in headings[1:]):
        kinds = frozenset(("data",))
    licences = tuple(dict.fromkeys(each.licence for each in group))
    return Statement(kinds, licences, bool(_EITHER.search(text, begin)), text[begin:].strip()[:200], place)


def _nearest(text: str) -> frozenset[Kind]:
    """What the last words that name a kind name, with those that are listed before it."""
    plain = _NOT_KINDS.sub(" ", text)
    found = sorted((match.start(), match.end(), kind) for kind, words in KIND_WORDS.items()
                   for match in words.finditer(plain))  # fmt: skip
    kinds: set[Kind] = set()
    begin = len(plain)
    for start, end, kind in reversed(found):
        if kinds and begin - end > _NEAR:
            break
        kinds.add(kind)
        begin = start
    return frozenset(kinds)


def _kinds(text: str) -> frozenset[Kind]:
    return frozenset(kind for kind, words in KIND_WORDS.items() if words.search(_NOT_KINDS.sub(" ", text)))
