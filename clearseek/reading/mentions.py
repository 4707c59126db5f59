"""What a text says of the places that it links: each link with the words that tell what stands behind it.

An address alone tells little: a data set may be what a model was trained on, what it was tested on, or somebody else's
that a sentence compares with. People see it from the words around it, and nearest first: the link's own words, those
before it in its sentence, the names of its row and column, the line that leads into its list, the headings above.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Final

from clearseek.reading.card import Block, Document, Link
from clearseek.reading.claims import normalise
from clearseek.reading.evidence import Evidence
from clearseek.reading.source import is_test
from clearseek.reading.subject import Subject
from clearseek.reading.words import WORDS

_LONGEST: Final = 400
"""Characters on either side of a link that are looked at."""
_MOST: Final = 20_000
_MOST_TEXT: Final = 500_000
"""Links in all, and characters of a document in which the model's name is looked for."""
_WORD = re.compile(r"[^\W\d_]{2,40}")
_TOOLS = re.compile(r"(?:^|/)(?:third[-_]?part\w*|vendor|eval\w*|bench\w*|demos?|[\w-]*harness[\w-]*)/")
FURTHER = re.compile(r"[,;] (?!which|that|on which|used|to|where)")
"""Where the rest of a sentence goes on to something else."""
_NAME = re.compile(r"(?<![\w/.-])[A-Z][\w.-]{1,40}")
_VERB = re.compile(
    r"['\u2019]s?\b|,\s(?:an?|the|which|whose)\b|\s(?:(?:models?|LLMs?|series|family|paper)\s)?(?:is|was|are|were|has"
    r"|have|uses?)\b"
)
_OURS = re.compile(
    r"\b(?:we|our|this|these|it|they|its|all|dies\w*|unser\w*|wir|ce|cette|notre|nous|este|nuestro)\b"
    r"|我们|本|この|当社|이 모델",
    re.I,
)
_MODEL_BEFORE = re.compile(r"(?:Modell|modèle|modelo|模型|モデル|모델)\s?$")
_MODEL_AFTER = re.compile(r"\s?(?:模型|モデル|모델)|-Modell")
_BASE = re.compile(
    r"\b(?:is|from|(?:version|variant|copy) of|based on|on top of|tuned|upon) (?:the |an? )?[\w./-]{0,40}$"
)
_DEVICE = re.compile(r"(?:[HABV]\d00|[BH]20|RTX|TPU|GPU|CUDA|MI\d)", re.I)
_COMMON: Final = frozenset(WORDS["names"]["common"])
_FAMILIES: Final = frozenset(WORDS["names"]["families"])


@dataclass(frozen=True)
class Mention:
    """A link and the words around it."""

    link: Link
    document: Document
    before: str = ""
    """Its sentence, or its cell, up to it."""
    after: str = ""
    """The rest of the sentence."""
    label: str = ""
    """Names of its column and row, or the sentence that leads into its list."""
    headings: tuple[str, ...] = ()
    around: str = ""
    """The paragraph or item of a list that it stands in."""
    bar: bool = False
    """Whether it stands in a row of links or badges, which says nothing else."""

    @property
    def target(self) -> str:
        """Where the link leads."""
        return self.link.target

    @property
    def withheld(self) -> bool:
        """Whether its words say that nothing is given out there."""
        return (self.link.line, self.link.target) in self.document.withheld

    @property
    def sentence(self) -> str:
        """All words of its sentence or cell."""
        return f"{self.before} {self.link.text} {self.after}"

    @property
    def place(self) -> Evidence:
        """The link as evidence, quoted as its target."""
        return Evidence(self.document.file, f"line {self.link.line}", self.target, self.document.sha256)

    def nearest(self, cues: Mapping[str, re.Pattern[str]], headings: bool | None = None) -> str:
        """The kind of words that stands nearest to the link, or an empty string; `headings`: in these alone, or not."""
        near = (
            (self.link.text, "", self.label, "") if self.bar else (self.link.text, self.before, self.label, self.after)
        )
        texts = () if headings is True else near
        for number, text in enumerate((*texts, *(() if headings is False else self.headings[::-1]))):
            if texts and number == 3:
                text = FURTHER.split(text, maxsplit=1)[0]
            found = [(match.start(), kind) for kind, cue in cues.items() for match in cue.finditer(text)]
            if found:
                return (min if texts and number == 3 else max)(found)[1]
        return ""


def is_model_name(text: str) -> bool:
    """Whether words look like the name of a model, as ``owner/name``, ``Foo-7B`` or a family that is known."""
    return bool(re.search(r"\w/\w|[A-Za-z][\w.-]*\d", text)) or bool(
        {normalise(word) for word in text.split()} & _FAMILIES
    )


def of_another(text: str, names: frozenset[str]) -> bool:
    """Whether the last subject of these words is a model of another name than these (normalised), not "we" or "it"."""
    text = text[-_LONGEST:]
    for match in reversed(list(_NAME.finditer(text))):
        name = normalise(match[0].rstrip(".-"))
        inner = re.search(r"[a-z][A-Z]|-[A-Z]\b", match[0]) and _VERB.match(text, match.end())
        own = any(each and (each.startswith(name) or name.startswith(each)) for each in names)
        model = _MODEL_BEFORE.search(text, 0, match.start()) or _MODEL_AFTER.match(text, match.end())
        other = name in _FAMILIES or model or (name not in _COMMON and (re.search(r"\d", name) or inner))
        if _BASE.search(text[max(0, match.start() - 80) : match.start()]) or not (own or other):
            continue  # what it was made from, or another word
        return not own and not _DEVICE.match(match[0]) and not _OURS.search(text, match.end())
    return False


@lru_cache(maxsize=1)
def own_documents(subject: Subject) -> tuple[Document, ...]:
    """The documents that speak of the model: those at the top, and those below that name it; not those of tests."""
    names = [each for each in map(normalise, subject.names) if len(each) > 2]

    def is_own(document: Document) -> bool:
        if "/" not in document.file or is_test(document.file) or _TOOLS.search(document.file.lower()):
            return "/" not in document.file
        return any(map(re.sub(r"[^a-z0-9.]", "", document.text[:_MOST_TEXT].lower()).count, names))

    return tuple(filter(is_own, subject.documents))


@lru_cache(maxsize=1)
def mentions(subject: Subject) -> tuple[Mention, ...]:
    """The links of these documents, each with its words; of those in code only the headings are known."""
    return tuple(islice((each for document in own_documents(subject) for each in _mentions(document)), _MOST))


def tagged(subject: Subject, key: str) -> Iterator[tuple[str, Evidence]]:
    """The strings under a key of the card's metadata, one or a list, each with its place."""
    value, card = (subject.metadata.value or {}).get(key), subject.card
    for each in (value if isinstance(value, list) else [value])[:100] if card else ():
        if card and isinstance(each, str) and (each := each.strip()):
            line = next((n for n, text in enumerate(card.lines, 1) if each in text), 1)
            yield each, Evidence(card.file, f"line {line}, key {key}", each[:200], card.sha256)


def first_link(subject: Subject, wanted: re.Pattern[str]) -> Mention | None:
    """The first link whose words are the wanted."""
    return next((each for each in mentions(subject) if wanted.search(each.link.text) and not each.withheld), None)


def _mentions(document: Document) -> Iterator[Mention]:
    seen: set[tuple[str, int]] = set()
    for each in (*_in_prose(document), *_in_tables(document)):
        seen.add((each.target, each.link.line))
        yield each
    for link in document.links:
        if (link.target, link.line) not in seen and link.line <= len(document.headings):
            yield Mention(link, document, headings=document.headings[link.line - 1], bar=bool(link.image))


def _in_prose(document: Document) -> Iterator[Mention]:
    lead = ""
    for block in document.blocks:
        lead = lead if block.kind == "item" else ""
        headings = block.headings[:-1] if block.kind == "heading" else block.headings
        bar, begins = bool(block.links) and _is_bar(block), [each.begin for each in block.sentences]
        for link in block.links if begins else ():
            sentence = block.sentences[max(0, bisect_right(begins, link.place) - 1)]
            before = sentence.text[: link.place - sentence.begin][-_LONGEST:]
            after = sentence.text[link.place - sentence.begin + len(link.text) :][:_LONGEST]
            yield Mention(link, document, before, after, lead, headings, block.text[:1_000], bar)
        if block.kind == "paragraph" and block.text.rstrip().endswith((":", "\uff1a")):
            lead = block.text[-_LONGEST:]


def _is_bar(block: Block) -> bool:
    """Whether a block says little beside its links."""
    text = block.text[:4_000].replace("&nbsp", " ")
    for link in block.links[:100]:
        text = text.replace(link.text or link.target, " ", 1)
    return len(_WORD.findall(text)) <= (0 if len(block.links) == 1 else len(block.links))


def _in_tables(document: Document) -> Iterator[Mention]:
    for cell in document.cells:
        for link in cell.links:
            names = [text for text in cell.row[1::-1] if text != cell.text]
            label = " | ".join((*names, *cell.header[cell.column : cell.column + 1]))[-_LONGEST:]
            before, _, after = cell.text.partition(link.text) if link.text else (cell.text, "", "")
            headings = document.headings[link.line - 1] if link.line <= len(document.headings) else ()
            yield Mention(link, document, before[-_LONGEST:], after[:_LONGEST], label, headings)
