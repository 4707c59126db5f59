"""Links to what is not there: promised, kept back, or only described where they lead.

A link in "the data will be released at ..." is no offer. Its words are those of its own clause: in "the weights are at
..., and the data follow" the first link holds. A row of a table, the sentence that leads into a list, an open item of a
list of tasks and a heading say it as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Final

from clearseek.reading.parts import Block, Cell, Link, Parts
from clearseek.reading.words import cue

NOT_THERE: Final = cue("not_there")
"""Says that something is not there yet, or not given out."""
_LONGEST: Final = 600
_GOES_WITH: Final = "which|that|it|they|this|these|will|is|are|at|on|in|under|here|from|to|also"
_WITH_IT = rf"(?!\s*(?:(?:{_GOES_WITH})\b|{NOT_THERE.pattern}))"
_BREAK = re.compile(
    rf"[;\uff1b。]|[,(\uff0c\uff08]{_WITH_IT}|\b(?:but|while|whereas|although|though|however|aber|mais|pero)\b|但", re.I
)
"""Ends what is said of a link: something else follows."""
_AND = re.compile(rf"(?:\band\b|&|[\u2014\u2013]|\s-\s|\|){_WITH_IT}|\b(?:und|et|y)\b|和", re.I)
_FURTHER = cue("further")
_ABOUT = cue("described_there")
_OPEN_TASK = re.compile(r"\[ ?\]\s|[\u2610\u2b1c\U0001f51c\u23f3]")
_DONE_TASK = re.compile(r"\[[xX]\]|[\u2611\u2705\u2714]")
_PLANS = cue("plans")
_STATE = re.compile(r"status|availab|releas|state\b|public|open|note|remark|comment|when|date|状态|发布|开源", re.I)
_NOT = re.compile(
    r"(?:no|not|none|private|internal|closed|n/a|x|否|未)\b.{0,20}|[\u2717\u2718\u274c\u00d7]\ufe0f?", re.I
)
_GOES_ON = re.compile(r"(?:it|they|this|these|the (?:link|page|address|repo\w*))\b", re.I)


def withheld(parts: Parts) -> frozenset[tuple[int, str]]:
    """The links, by line and target, that lead to nothing that is given out."""
    cells = (link for cell in parts.cells if cell.links and _in_row(cell) for link in cell.links)
    return frozenset((link.line, link.target) for link in (*_in_prose(parts.blocks), *cells))


def _in_prose(blocks: Sequence[Block]) -> Iterator[Link]:
    lead = ""
    for block in blocks:
        lead = lead if block.kind == "item" else ""
        told = _of_all(block, lead) if block.links and block.kind != "heading" else False
        for number, sentence in enumerate(block.sentences if block.links else ()):
            links, end = sentence.links, len(sentence.text)
            places = [max(0, link.place - sentence.begin) for link in links]
            follows = "".join(each.text for each in block.sentences[number + 1 : number + 2])
            for link, begin, last in zip(links, places, (*places[1:], end), strict=False):
                after = sentence.text[begin + len(link.text) : last]
                if last == end and _GOES_ON.match(follows):
                    after += f" {follows}"
                if told or is_withheld(sentence.text[:begin], link.text, after, block.text[: link.place]):
                    yield link
        if block.kind == "paragraph" and block.text.rstrip().endswith((":", "\uff1a")):
            lead = block.text


def _of_all(block: Block, lead: str) -> bool:
    """Whether all links of a block are promised: by the sentence above their list, an open task, or the heading."""
    if block.kind != "item" or not block.headings or _DONE_TASK.match(block.text):
        return False
    planned = _PLANS.fullmatch(block.headings[-1].strip(" :.!#*"))
    return bool(_OPEN_TASK.match(block.text) or planned or (lead and is_withheld(lead, "", "")))


def is_withheld(before: str, text: str, after: str, above: str = "") -> bool:
    """Whether the words next to a link say that nothing is given out there.

    Args:
        before: The words of its sentence in front of it.
        text: Its own words.
        after: The words behind it, up to the next link.
        above: All that its paragraph says before it.
    """
    own = next((each for each in _BREAK.split(before[-_LONGEST:])[::-1] if re.search(r"\w", each)), "")
    said = list(NOT_THERE.finditer(own))
    if said and not _AND.search(own, said[-1].end()) and not _FURTHER.search(own):
        return True
    if NOT_THERE.search(text):
        return True
    rest = _AND.split(_BREAK.split(after[:_LONGEST])[0])[0]
    if any(match.end() > len(own) for match in NOT_THERE.finditer(own + rest)) and not _FURTHER.search(rest):
        return True
    return bool(_ABOUT.search(f"{own[-160:]} {text} {rest[:60]}") and NOT_THERE.search(above[-_LONGEST:] or before))


def _in_row(cell: Cell) -> bool:
    """Whether the row of a table says so: in the cell, in its title or its name, or in a column on what is released."""
    link = cell.links[0]
    before, _, after = cell.text.partition(link.text) if link.text else (cell.text, "", "")
    if is_withheld(before, link.text, after):
        return True
    title = "".join(cell.header[cell.column : cell.column + 1])
    short = [each for each in (title, *takewhile(lambda each: each != cell.text, cell.row)) if len(each) < 80]
    if any(map(NOT_THERE.search, short)):
        return True
    states = (
        text for text, name in zip(cell.row, cell.header, strict=False) if _STATE.search(name) and text != cell.text
    )
    return any(NOT_THERE.search(each) or _NOT.fullmatch(each.strip()) for each in states)
