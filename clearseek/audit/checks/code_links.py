"""Links in a release's documents that lead to code: whose it is, and what is said of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from clearseek.reading.card import Document, Link
from clearseek.reading.evidence import Evidence
from clearseek.reading.identity import SIZE
from clearseek.reading.repositories import NOT_THERE, read_address
from clearseek.reading.subject import Subject

CODE: Final = (
    r"code|scripts?|recipes?|repo|repository|codebase|pipeline|framework|implementation|github|toolkit|librar(?:y|ies)"
)
NO_CODE = re.compile(
    r"/(?:issues|discussions|wiki|releases|actions|pulls?|security|stargazers|graphs|commits)\b"
    r"|\.(?:svg|png|jpe?g|gif|pdf|md|bib|txt|jsonl?|csv|parquet|zip)\b|#[\w-]+$|LICEN[CS]E",
    re.I,
)
"""Addresses in a repository that are no code."""
_POSSESSED = re.compile(
    rf"\bour (?:own )?(?:[\w-]+ ){{0,4}}?(?:{CODE})\b|\bwe (?:have )?(?:developed|built|wrote|created|maintain)", re.I
)
_USED = re.compile(
    r"\b(?:code(?:base)?|scripts?|recipes?)\W{1,3}(?:(?:that|which) )?(?:we|was|were) (?:\w+ )?used (?:to|for|in)\b",
    re.I,
)
"""Says of code that this model was made with it, whoever keeps it."""
_OURS = re.compile(r"\bour\b|\bwe (?:\w+ )?(?:release|publish|provide|share|open)|\bofficial\b", re.I)
_OFFERED = re.compile(
    r"such as|e\.g|example|refer to|suggest|recommend|\blike\b|\busing\b|\bwith\b|\bvia\b|third|communit|other|thank"
    r"|\b(?:based|built (?:up)?) ?on|adapted|fork|inspired|compar|\bfrom\b|support",
    re.I,
)
"""Words by which a card speaks of what others made."""


def code_links(subject: Subject, words: str, clear: bool = True, whose: bool = True) -> Iterator[Evidence]:
    """Links to repositories among these words: the maker's, or others'; if `clear`, only those that surely are."""
    for document in subject.documents:
        for text, link in _told(document):
            kind, _, name = read_address(link.target) or ("", "", "")
            if kind != "code" or NO_CODE.search(link.target):
                continue
            called = link.text and re.sub(r"\W", "", link.text.lower()) == re.sub(r"\W", "", name.lower())
            said = text.replace(link.text, f"{link.text} itsname") if called else f"{text} ({name})"  # a tool's name
            if re.search(words, said, re.I) and not NOT_THERE.search(text) and (clear or subject.kin(name)):
                own, kin = subject.is_own(link.target), subject.kin(name)
                if own and clear and (is_here(subject, kin) or (not kin and SIZE.search(name.lower()))):
                    continue  # this folder itself, or another model's
                if own is None:
                    own = not clear or bool(_OURS.search(text)) or not _OFFERED.search(text)
                    own = own or bool(_USED.search(text) or (_POSSESSED.search(text) and not _OFFERED.search(text)))
                if own == whose:
                    yield Evidence(document.file, f"line {link.line}", link.target)


def is_here(subject: Subject, kin: str) -> bool:
    """Whether a repository of that kinship is this folder: code with neither weights nor a hub's metadata."""
    card = subject.card
    hub = subject.config_raw.value or subject.weight_files or (card is not None and card.lines[:1] == ("---",))
    return kin == "same" and not hub


def _told(document: Document) -> Iterator[tuple[str, Link]]:
    """Each link with what is said about it: its part of a sentence and the heading above, or its row of a table."""
    for each in (sentence for sentence in document.sentences if sentence.block.links):
        above = each.headings[-1] if each.headings and len(each.text.split()) < 9 else ""
        ends = [link.place - each.begin for link in each.links[1:]] + [len(each.text)]
        begin = 0
        for link, end in zip(each.links, ends, strict=False):
            yield f"{above}: {each.text[max(0, begin) : end]}", link
            begin = link.place + len(link.text) - each.begin
    for cell in document.cells:
        for link in cell.links:
            yield ": ".join((*cell.header[cell.column :][:1], " ".join(cell.row))), link
