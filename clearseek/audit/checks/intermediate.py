"""Offers of intermediate checkpoints: a document says where those of earlier steps are, or that they are published.

They are offered by a revision that is named after a step, linked or loaded in an example; by a link in a sentence, in a
table's row or column, or in a section that speaks of them; and, as no more than a claim, by a sentence that says that
they are published. Those of another model, those that a model was made from and those that are promised are no offer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Final

from clearseek.audit.evidence import Evidence
from clearseek.audit.read.card import Document, Link, shorten
from clearseek.audit.read.hub import STEP_REVISION
from clearseek.audit.read.parts import Sentence
from clearseek.audit.read.repositories import read_address, written
from clearseek.audit.read.subject import Subject

_MOST: Final = 40
"""Places that are kept; those after them add nothing."""
_LONGEST: Final = 2_000
"""Characters of a sentence that are looked at."""
_PLURAL = r"(?:check-?points|ckpts|snapshots)"
_TRAINING = r"(?:the )?(?:entire |whole |full |course of )?(?:pre-?)?training"
_EVERY = r"\b(?:every|each) \S{1,12} (?:\S{1,12} ){0,2}(?:steps|tokens|iterations|updates|samples)\b"
_KIND = r"(?:intermediate|intermediary|partially[- ]trained|mid-?training|in-training|training-time)"
_SPOKEN = re.compile(
    rf"\b{_KIND} (?:[\w-]{{1,20}} ){{0,3}}(?:{_PLURAL}|weights|revisions)\b"
    rf"|\b(?:each|every|all|any) {_KIND} (?:[\w-]{{1,20}} ){{0,2}}check-?points?\b"
    rf"|\b{_PLURAL}\b[^.;]{{0,60}}\b(?:throughout|during|over the|along|across) {_TRAINING}"
    rf"|\b{_PLURAL}\b[^.;]{{0,80}}{_EVERY}|{_EVERY}[^.;]{{0,40}}\bcheck-?points?\b"
    rf"|\b\d{{2,4}} (?:[\w-]{{1,20}} ){{0,2}}{_PLURAL}\b[^.;]{{0,60}}\b(?:steps?|each model)\b"
    r"|(?:checkpoints|points de contrôle) intermédiaires|(?:checkpoints|puntos de control) intermedios"
    r"|Zwischen-?(?:check-?points|stände\w*)|(?:中间|中間|训练过程中?的?|訓練過程中?的?)\s?"
    r"(?:检查点|檢查點|チェックポイント|权重|權重|模型|checkpoints?|ckpts?)",
    re.I,
)
"""Checkpoints of earlier steps, as people speak of them."""
_WORDS = re.compile(r"check-?point|ckpt|snapshot|weights|revisions|contrôle|control|Zwischen|中|过程|過程", re.I)
"""What any of these has; most sentences have nothing of it."""
_MADE_FROM = re.compile(
    r"\b(?:initiali[sz]|start|resum|continu|merg|averag|soup|ensembl|interpolat|weight)\w{0,8}\b[^.;]{0,60}$", re.I
)
_DENIED = re.compile(r"\b(?:no|not(?! only)|never|without|cannot|neither|nor)\b|n['\u2019]t\b", re.I)
_PROMISED = re.compile(
    r"\bwill (?:\w+ ){0,3}(?:be|releas|publish|shar|upload|open|provid|follow)|\b(?:soon|planned|plan to|going to"
    r"|to-?do|upcoming|coming|on request|upon request|by request|contact us|e-?mail)\b"
    r"|即将|后续|稍后|demnächst|bientôt",
    re.I,
)
_GIVING = re.compile(
    r"\b(?:releas|publish|provid|shar|upload|open-?sourc|host|offer|includ|mak|made|distribut|featur)\w{0,6}"
    r"(?: [^\s.;:]{1,24}){0,6} ?$",
    re.I,
)
_GIVEN = re.compile(
    r"^[^.;]{0,80}\b(?:available|released|published|provided|shared|uploaded|hosted|open|public\w*|found|downloaded|accessed"
    r"|accessible|included|distributed)\b",
    re.I,
)
_ABOUT_THEM = re.compile(r"\b(?:analys|evaluat|result|stud|figure|plot|code|script|metric|log|loss)\w{0,8}\b", re.I)
_REVISION = re.compile(r"\brevision\b[\"']?\s{0,4}[=: ]\s{0,4}[\"']?([\w./-]{1,100})")
_IN_ADDRESS = re.compile(r"/(?:tree|blob|resolve|raw|commits)/([^?#\s]{1,300})")
_READING = re.compile(
    r"arxiv\.org|doi\.org|openreview\.net|aclanthology\.org|\.pdf(?:$|[?#])|wandb\.ai|\.(?:png|svg|jpe?g|gif)\b"
    r"|//(?:[\w-]{1,40}\.)?(?:twitter|x|youtube|discord|medium|linkedin|reddit)\.(?:com|gg)\b|/(?:blog|news)\b"
)


@dataclass(frozen=True, slots=True)
class Offers:
    """What the documents offer."""

    places: tuple[Evidence, ...]
    linked: bool
    """Whether these are links, and not only words."""


def offers(subject: Subject) -> Offers:
    """Where the documents offer intermediate checkpoints of this model."""
    links = tuple(dict.fromkeys(islice((each for document in subject.documents for each in _linked(subject, document)),
                                       _MOST)))  # fmt: skip
    if links:
        return Offers(links, True)
    said = (document.at(each.line, each.text) for document in subject.documents for each in _said(document))
    return Offers(tuple(islice(said, _MOST)), False)


def _linked(subject: Subject, document: Document) -> Iterator[Evidence]:
    for link in document.links:
        if _is_step_address(link.target) and subject.is_own(link.target) is not False:
            yield document.at(link.line, link.target)
    yield from _loaded(subject, document)
    for place, sentence in _speaking(document):
        offered = _is_offered(sentence)
        for link in _links_of(document, place, sentence):
            if _may_hold(subject, link, offered):
                yield document.at(link.line, link.target)
    for block in document.blocks:
        if block.kind != "heading" and any(_SPOKEN.search(title[:300]) for title in block.headings[1:]):
            yield from (document.at(link.line, link.target) for link in block.links if _may_hold(subject, link, False))
    for cell in document.cells:
        title = cell.header[cell.column] if cell.column < len(cell.header) else ""
        if cell.links and any(_SPOKEN.search(text[:300]) for text in (title, cell.row[0], cell.text)):
            yield from (document.at(link.line, link.target) for link in cell.links if _may_hold(subject, link, False))


def _is_step_address(target: str) -> bool:
    """Whether an address leads to a revision, or a folder of one, that is named after a step."""
    match = _IN_ADDRESS.search(target)
    parts = match[1].replace("%2F", "/").split("/")[:6] if match and read_address(target) else []
    return any((found := STEP_REVISION.search(part)) is not None and found["step"] is not None for part in parts)


def _loaded(subject: Subject, document: Document) -> Iterator[Evidence]:
    """Lines of examples that load a revision named after a step."""
    for number, line in enumerate(document.lines, 1):
        if "revision" not in line:
            continue
        for match in islice(_REVISION.finditer(line), 4):
            found = STEP_REVISION.search(match[1])
            if found is None or found["step"] is None:
                continue
            near = [each for text in document.lines[max(0, number - 5) : number] for each in written(text)]
            if not near or subject.is_own(f"https://huggingface.co/{near[-1][1]}/{near[-1][2]}") is not False:
                yield document.at(number, shorten(line.strip()))


def _speaking(document: Document) -> Iterator[tuple[int, Sentence]]:
    """Sentences about such checkpoints that neither deny nor promise them, nor say what was made from them.

    With each the place of its block.
    """
    for place, sentence in ((place, each) for place, block in enumerate(document.blocks) for each in block.sentences):
        text = sentence.text[:_LONGEST]
        found = list(islice(_SPOKEN.finditer(text), 4)) if _WORDS.search(text) else []
        if found and not _PROMISED.search(text) and not any(_is_none(text, match) for match in found):
            yield place, sentence


def _is_none(text: str, match: re.Match[str]) -> bool:
    """Whether a sentence says that there are none, or what was made from them."""
    before, after = text[: match.start()], text[match.end() :]
    near = re.split(r"[,;:]", before)[-1][-60:], re.split(r"[,;:]", after)[0][:60]
    return bool(_MADE_FROM.search(before)) or any(_DENIED.search(each) for each in near)


def _is_offered(sentence: Sentence) -> bool:
    """Whether a sentence says that they are given to others."""
    text = sentence.text[:_LONGEST]
    for match in islice(_SPOKEN.finditer(text), 4):
        giving = _GIVING.search(text[max(0, match.start() - 160) : match.start()])
        given = _GIVEN.match(text[match.end() :]) or _GIVEN.match(match[0])
        if given or (giving and not _ABOUT_THEM.search(giving[0])):
            return True
    return False


def _said(document: Document) -> Iterator[Sentence]:
    return (sentence for _, sentence in _speaking(document) if _is_offered(sentence))


def _links_of(document: Document, place: int, sentence: Sentence) -> Iterator[Link]:
    """The links of a sentence, and where it ends in a colon those of the list below its block."""
    yield from sentence.links
    if sentence.text.rstrip().endswith((":", "\uff1a")):
        below = takewhile(lambda block: block.kind == "item", document.blocks[place + 1 : place + 200])
        yield from (link for block in below for link in block.links)


def _may_hold(subject: Subject, link: Link, offered: bool) -> bool:
    """Whether checkpoints can lie behind a link: a hub or a store, or where they are offered a page of the maker's."""
    own = subject.is_own(link.target)
    if own is False or _READING.search(link.target) or link.target.startswith("#"):
        return False
    found = read_address(link.target)
    if found is not None and found[0] in ("code", "space"):
        return offered and own is True
    return found is None or found[0] != "data set" or offered
