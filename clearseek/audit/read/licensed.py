"""What a card says of licences, as people write it: a tag, a badge, a bullet, a row, a section of two words, a sentence.

A statement names licences and what they are for. "The code is under MIT, the weights under CC-BY-NC" is two statements:
each name belongs to the words before it. Where no word says what for, the heading does, and else it is for the whole
release. What is said of others (a base "originally" under Apache, third parties) states nothing of this one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from clearseek.audit.evidence import Evidence
from clearseek.audit.read.card import Document, Link
from clearseek.audit.read.subject import Subject
from clearseek.licences.named import CONTEXT, Named, by_url, named
from clearseek.licences.table import Kind, Licence, choices, lookup

_MOST = 60
_LONGEST = 1_500
KIND_WORDS: Final[dict[Kind, re.Pattern[str]]] = {
    "weights": re.compile(
        r"\b(?:models?|weights?|checkpoints?|parameters|modell\w*|gewichte\w*|modèles?|poids|modelos?|pesos|modelli)\b"
        r"|模型|权重|權重|モデル|모델|модел|вес", re.I),
    "code": re.compile(
        r"\b(?:(?:source )?codes?|codebase|software|scripts|implementation|quell\w*code|logiciel|código|codice)\b"
        r"|代码|代碼|コード|코드|код\b", re.I),
    "data": re.compile(r"\b(?:data|data ?sets?|corpus|corpora|daten\w*|données|datos|dados)\b|数据|數據|データ|데이터", re.I),
    "documents": re.compile(r"\b(?:documentation|docs|documents?|report|paper|images and text)\b|文档", re.I),
}  # fmt: skip
"""Words for what a licence may be for."""
_SECTION = re.compile(r"\W{0,4}(?:\d+\W+)?(?:[\w&/ ]{0,40}\b)?(?:licen[cs]\w*|lizenz\w*|licencia|licença|licenza|terms of use)\b.{0,40}"
                      r"|.{0,12}(?:许可|許可|协议|協議|授权|ライセンス|라이선스|лиценз).{0,12}", re.I)  # fmt: skip
_OF_OTHERS = re.compile(
    r"\boriginal(?:ly)?\b|\bthird[- ]part|\bdependenc|\bwhich (?:is|are|was|were)(?: \w+){0,2} (?:licen[cs]ed|released)"
    r"|\b(?:its|their|the) base model(?:'s)? (?:is|was|licen)|\bunlike\b|\bwhereas\b|\bnot (?:under|licensed|released|covered)\b"
    r"|\bno longer\b|\bprevious(?:ly)?\b|\bformerly\b|\binspired\b|\bother models\b|\bcompatible\b|\bdemo\b"
    r"|\bthanks? to\b|\bborrow|\badapted from\b|原始|第三方",
    re.I,
)
"""Says that a licence is of something else, or no more."""
_MODEL = re.compile(r"\b[A-Za-z][\w.]{1,40}(?:[- ][\w.]{1,20}){0,4}?[- ]\d+(?:\.\d+)?(?:[bBmM]|x\d+[bB])\b(?:-[\w.]+)*")
"""A model's name with its size."""
_ASIDE = re.compile(r"acknowledg|thank|citation|related|reference|致谢|引用|upstream|third[- ]party", re.I)
_OF_DATA = re.compile(r"\bdata(?:\b|sets?)|corpus|数据", re.I)
_NAMES_ONE = re.compile(
    r"\W*(?:model |weights? |code |data )?(?:licen[cs]e(?: type| name)?|lizenz|licencia|licença|licenza|许可证?|许可协议|协议)"
    r"\s*[:：=]\s*(?P<name>\S.{1,80}?)\W*", re.I)  # fmt: skip
_NO_NAME = re.compile(
    r"\bsee\b|\bfile\b|\blink\b|below|above|\btbd\b|\bother\b|unknown|none|n/a|\bhere\b|\.md|\.txt|https?:", re.I
)
_EITHER = re.compile(r"\bor\b|\beither\b|\bdual|\boder\b|\bou\b|或", re.I)
_FOR = re.compile(r"\W{0,3}(?:licen[cs]e)?\W{0,3}(?:for|covers|applies to|\(|für|pour|para)(?P<what>[^.;]{0,40})", re.I)


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

    @property
    def deciding(self) -> Licence | None:
        """The licence that decides: the freest of a choice, else the strictest."""
        ranked = sorted(self.licences, key=lambda each: each.restricted, reverse=not self.either)
        return ranked[0] if ranked else None


def statements(subject: Subject) -> tuple[Statement, ...]:
    """All that the card says of licences: the metadata first, then as it stands there."""
    card = subject.card
    if card is None:
        return ()
    found = [*_tags(subject.metadata.value or {}, card)]
    for each in (*_badges(card), *_sentences(subject, card), *_rows(subject, card)):
        if len(found) < _MOST and not any(
            each.kinds == other.kinds and each.licences == other.licences and not other.tag for other in found
        ):
            found.append(each)
    return tuple(found)


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


def _badges(card: Document) -> Iterator[Statement]:
    """Pictures with words such as ``License-Apache_2.0``."""
    for link in card.links:
        if not link.image and "shields.io" not in link.target and "/badge" not in link.target:
            continue
        address = unquote(urlsplit(link.image or link.target).path.rpartition("/badge/")[2] or "")
        words = re.sub(r"_+", " ", address.replace("--", "\0").replace("-", " ")).replace("\0", "-")
        for text in (f"{link.text} ", words):
            if CONTEXT.search(text) and (names := named(text)):
                yield _statement(text, names[0], names[:1], (), card, link.line)
                break


def _sentences(subject: Subject, card: Document) -> Iterator[Statement]:
    for block in card.blocks:
        if any(_ASIDE.search(heading) for heading in block.headings[1:]):
            continue
        section = bool(block.headings) and bool(_SECTION.fullmatch(block.headings[-1])) and block.kind != "heading"
        for sentence in block.sentences:
            text = sentence.text[:_LONGEST]
            if not (section or CONTEXT.search(text)) or _OF_OTHERS.search(text) or _of_siblings(subject, text):
                continue
            short = section and len(text) < 200
            names = named(text, context=section)
            if names and (short or block.kind != "heading" or len(text) < 80):
                yield from _each(text, names, sentence.headings, card, sentence.line)
            elif section and (known := _linked(sentence.links)) is not None:
                yield _statement(
                    text, Named(known, 0, len(text)), [Named(known, 0, 0)], sentence.headings, card, sentence.line
                )
            elif (match := _NAMES_ONE.fullmatch(text)) and not _NO_NAME.search(match["name"]):
                place = card.at(sentence.line, text)
                yield Statement(_kinds(text[: match.start("name")]), (), False, match["name"], place)


def _of_siblings(subject: Subject, text: str) -> bool:
    """Whether a sentence names other models by their sizes, and not this one."""
    found = _MODEL.findall(text)
    return bool(found and subject.names) and not any(subject.kin(name) in ("same", "form") for name in found)


def _linked(links: tuple[Link, ...]) -> Licence | None:
    return next((known for link in links if (known := by_url(link.target)) is not None), None)


def _rows(subject: Subject, card: Document) -> Iterator[Statement]:
    """Cells of tables, in a row or a column that is called a licence."""
    for cell in card.cells:
        first = cell.row[0] if cell.row else ""
        head = cell.header[cell.column] if cell.column < len(cell.header) else ""
        title = next((each for each in (first, head) if cell.column and len(each) < 40 and CONTEXT.search(each)), None)
        if title is None:
            continue
        if title == head and (
            _OF_DATA.search(" ".join(cell.header)) or (subject.names and not _is_this(subject, first))
        ):
            continue  # each row is of another data set or model
        names = named(cell.text, context=True)
        known = names[0].licence if names else _linked(cell.links)
        if known is not None:
            yield Statement(_kinds(title), (known,), False, cell.text, card.at(cell.line, " | ".join(cell.row)))


def _is_this(subject: Subject, name: str) -> bool:
    return subject.kin(name) in ("same", "form")


def _each(text: str, names: list[Named], headings: tuple[str, ...], card: Document, line: int) -> Iterator[Statement]:
    """A statement for each group of names that are for the same."""
    begin = 0
    group: list[Named] = []
    for at, name in enumerate(names):
        if group and (_kinds(text[group[-1].end : name.begin]) or text[group[-1].end : name.begin].count(".") > 1):
            yield _statement(text[begin:], group[0], group, headings, card, line, begin)
            begin, group = group[-1].end, []
        group.append(name)
        if at == len(names) - 1:
            yield _statement(text[begin:], group[0], group, headings, card, line, begin)


def _statement(
    text: str, first: Named, group: list[Named], headings: tuple[str, ...], card: Document, line: int, begin: int = 0
) -> Statement:
    before, after = text[: max(0, first.begin - begin)], text[group[-1].end - begin :]
    kinds = _kinds(before)
    if not kinds and (match := _FOR.match(after)):
        kinds = _kinds(match["what"])
    if not kinds and headings and _SECTION.fullmatch(headings[-1]):
        kinds = _kinds(headings[-1])
    if not kinds and any(_OF_DATA.search(heading) for heading in headings[1:]):
        kinds = frozenset(("data",))
    licences = tuple(dict.fromkeys(each.licence for each in group))
    return Statement(kinds, licences, bool(_EITHER.search(text)), text.strip()[:200], card.at(line, text.strip()))


def _kinds(text: str) -> frozenset[Kind]:
    plain = re.sub(r"\bopen[- ]source\b|\blanguage models?\b(?= \()|\bmodel card\b", " ", text, flags=re.I)
    return frozenset(kind for kind, words in KIND_WORDS.items() if words.search(plain))
