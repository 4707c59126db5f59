"""Numbers that a card states about its model, each with its line, its precision and its conventions.

A card's figures are claims, and most are arithmetic: parameters follow from shapes, utilisation from tokens and hours,
cost from hours and a price. So they are read here, and compared where the other side of the equation is known. A
figure's words are those up to the next figure: the run of words behind it ("14B *active parameters*") before those in
front ("a total of 142B"). One that is not understood is not a claim, since a wrong accusation is worse than none.
"2.4B" claims 2.35 to 2.5: a figure is as precise as it is written, and may be rounded or cut off.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Literal

from clearseek.reading.card import Cell, Document
from clearseek.reading.evidence import Evidence
from clearseek.reading.identity import normalise as normalise
from clearseek.reading.whose import About, is_other, whose
from clearseek.reading.whose import is_this_model as is_this_model
from clearseek.reading.words import cue

Kind = Literal[
    "total", "activated", "mtp", "mtp_activated", "mtp_stored", "stored", "tokens", "gpu_hours", "dollars",
    "dollars_per_hour", "context", "context_extended", "operations",
]  # fmt: skip
SCALES = {
    "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12,
    "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12,
}  # fmt: skip
MOST_FIGURES = 100
MOST_CLAIMS = 5_000
"""Figures of a sentence that are looked at, and claims of a document."""
LONGEST_SENTENCE = 4_000
_NUMBER = r"(?<![\w.,$-])(?P<number>\d{1,3}(?:,\d{3}){1,6}(?:\.\d{1,9})?|\d{1,18}(?:\.\d{1,9})?)"
_TOPICS = re.compile("param|activ|token|hours|context|sequence|total size|mtp|multi-token|[$]", re.I)
"""Words of which a claim has one."""
QUANTITY = re.compile(
    _NUMBER + r"[ -]?(?P<scale>[KkMBT]|[Tt]housand|[MmBb]illion|[Tt]rillion)?(?![\w]|\.\d|,\d{3}(?!\d))"
)
_MONEY = re.compile(
    r"\$\s?(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)\s?(?P<scale>[KkMB]|[mb]illion|thousand)?\b"
)
_BOTH = re.compile(r"includ\w* .{0,40}embedding.{0,40}head", re.I)
_NEITHER = re.compile(r"exclud\w* .{0,40}embedding.{0,40}head", re.I)
_NO_EMBEDDING = re.compile(r"non[- ]?embedding|(?:without|exclud\w{0,5}) (?:the )?(?:input )?embedding", re.I)
_NOT_THE_RUN = cue("not_the_run")
_NUMBERED = re.compile(r"(?<![\w/.-])[A-Z][A-Za-z]{1,20}[-. ]?[A-Za-z]{0,12}-?\d[\w.-]{0,20}")
_DEVICES = re.compile(r"\b(?:H800|H100|H200|H20|A100|A800|V100|B200|GB200|MI250X?|MI300X|TPU ?v\d\w{0,3})\b")
_FOOTNOTE = re.compile("[\u2020\u2021\u00a7\u00b9\u00b2\u00b3]")
"""Marks of a note that may say how something was counted."""
_PRONOUN = re.compile(r"(?:it|its|they|their|this|these|that|which)\b", re.I)
_EXTENDED = re.compile(r"yarn|extrapol|exten[ds]|rope|ntk|scal|interpol")
_TOKENS_OF_CONTEXT = re.compile(r"\s*-?(?:tokens?\b|context|$|[\s.,;)(])")
_NAMELESS = frozenset({
    "", "property", "attribute", "item", "feature", "field", "key", "name", "value", "details", "detail", "description",
    "specification", "spec", "hyperparameter", "info", "information",
})  # fmt: skip
"""Headers of a table that holds names and values."""
_BOUND = re.compile(
    r"\b(?:less than|fewer than|under|below|at most|(?:up|scale[sd]?) to(?: [a-z]{2,15})?)\s*$"
    r"|\d\s?(?:[kmbt]|\w*illion|thousand)? to\s*$"
)
"""Before a figure that says only how far it may go."""
_TRIMMED = re.compile(r"^[~\u2248] ?| (?:total )?(?:tokens|param\w{0,10})$")
_UNIT = re.compile(r"[(\[](?:in )?(?P<scale>[bmt]|[mb]illions?|trillions?)[)\]]")
"""A scale that a column's title gives to its figures."""

# The words of one figure end where those of the next begin.
_PARTING = re.compile(r"[,;()\u2013\u2014/]|\.\s|\b(?:and|with|while|but|whereas|of|out|from|among)\b")
_CLAUSE = re.compile(r"[;]|,\s|\.\s|\(|\b(?:and|with|while|but|whereas)\b")
_PART_OF = re.compile(r"\s*(?:param\w{0,10}\s+)?(?:out )?of (?:(?:its|the|a|all|total|about|over|some|of)\s+){0,5}")
"""Between two figures of which the first is a part of the second."""
_FILLERS = "only|just|about|around|roughly|up to|over|approximately|per|token|count|of|is|are|number|each|at|a|size"
_PARAM = r"(?:param\w{0,10}\s+)?"
_ACTIVE_AFTER = re.compile(
    rf"[\s-]*{_PARAM}(?:(?:are|is|being)\s+)?activ(?:e|ated|ations?)\b(?! (?:users|lear|dev))"
    rf"|[\s-]*{_PARAM}(?:(?:are|is)\s+)?(?:used |active )?(?:per|for each|for every|on each) (?:\w{{1,10}} )?token"
)
_ACTIVE_BEFORE = re.compile(rf"\bactiv(?:e|at\w{{1,4}})\b(?: (?:{_FILLERS}|param\w{{0,10}})|[\s:=~\u2248*-]){{0,12}}$")
_NOT_PARAMETERS = re.compile(r"\s*\w*\s*(?:experts?|tokens?|users?|layers?)\b")
_TOTAL_AFTER = re.compile(rf"[\s-]*{_PARAM}(?:in |overall |the )?(?:total|overall)\b")
_TOTAL_BEFORE = re.compile(rf"\btotal\b(?: (?:{_FILLERS}|param\w{{0,10}})|[\s:=~\u2248*-]){{0,8}}$")
_PARAM_AFTER = re.compile(r"[\s-]*(?:(?:unique|total|model|in|dense|learnable|non-?embedding)[\s-]){0,4}param")
_PARAM_BEFORE = re.compile(
    r"param\w*(?: count| size)?(?: ?\([^()]{0,40}\))?\s*[:=]\s*[~\u2248]?\s*$"
    r"|(?:param\w* (?:count|size) (?:of|is)|number of param\w* is) $"
)


@dataclass(frozen=True, slots=True)
class Claim:
    """A figure and where it stands."""

    kind: Kind
    value: float
    text: str
    """As written, such as ``36.7B``."""
    tolerance: float
    """Half a unit of the last digit written."""
    evidence: Evidence
    includes: Literal["both", "neither", ""] = ""
    """Whether embedding and head are said to be in."""
    device: str = ""
    """Device of GPU-hours, where it is named."""
    about: About = "some"
    """Whether its words name this model, or speak of several models, of another's or of a part's figure."""
    cut: float = 0.0
    """How far above it the actual number may lie, where digits were cut off instead of rounded."""

    @property
    def low(self) -> float:
        """The least that it can stand for."""
        return self.value - self.tolerance * (1 + 1e-9)

    @property
    def high(self) -> float:
        """The most that it can stand for."""
        return self.value + max(self.tolerance * (1 + 1e-9), self.cut * (1 - 1e-9))

    def rounds(self, actual: float) -> bool:
        """Whether `actual`, rounded as this figure is, gives this figure."""
        return abs(actual - self.value) <= self.tolerance * (1 + 1e-9)

    def agrees(self, actual: float) -> bool:
        """Whether `actual`, rounded or cut off as this figure is, gives this figure."""
        return self.low <= actual <= self.high

    def overlaps(self, other: Claim) -> bool:
        """Whether one number, written as each of the two is, can give both; so may those that count other things."""
        if (self.includes == "neither") != (other.includes == "neither"):
            return True
        return self.low <= other.high and other.low <= self.high


def settled(claims: tuple[Claim, ...]) -> tuple[tuple[Claim, ...], tuple[Claim, ...]]:
    """Claims of one kind that are of this model, and those that may be of another.

    Where a sentence names the model, its figure is the model's, and so is one that agrees with it. Where none does, the
    figures are its own if they all agree: a second figure may be that of a sibling, a teacher or a part.
    """
    named = {(claim.value, claim.text): claim for claim in claims if claim.about == "named"}.values()
    if named:
        own = tuple(
            claim
            for claim in claims
            if claim.about == "named" or (claim.about == "some" and any(map(claim.overlaps, named)))
        )
        kept = set(own)
        return own, tuple(claim for claim in claims if claim.about == "some" and claim not in kept)
    if any(claim.about == "several" for claim in claims) or not agree(claims):
        return (), claims
    return claims, ()


def agree(claims: tuple[Claim, ...]) -> bool:
    """Whether one number can give all figures of a kind; those that leave the embedding out are another number's."""
    for bare in (True, False):
        group = [claim for claim in claims if (claim.includes == "neither") == bare]
        if max((claim.low for claim in group), default=0.0) > min((claim.high for claim in group), default=0.0):
            return False
    return True


def read_quantity(number: str, scale: str | None) -> tuple[float, float]:
    """Value and tolerance of a written number: ``("36.7", "B")`` -> (36.7e9, 0.05e9)."""
    factor = SCALES[scale.lower()] if scale else 1.0
    digits = number.replace(",", "")
    decimals = len(digits.partition(".")[2])
    return float(digits) * factor, 0.5 * 10.0**-decimals * factor


def find_claims(document: Document, *names: str) -> Iterator[Claim]:
    """The claims of a document about the model that has these names, in order of line."""
    wanted = frozenset(map(normalise, names)) - {""}
    found: list[Claim] = []
    for cell in document.cells:
        if len(found) < MOST_CLAIMS:
            found += _in_cell(document, cell, wanted, names[0] if names else "")
    before = None
    for each in document.sentences:
        if len(found) >= MOST_CLAIMS:
            break
        text = each.text[:LONGEST_SENTENCE]
        if re.search(r"\d", text) and _TOPICS.search(text):
            theirs = any(map(is_other, each.headings[1:], [wanted] * len(each.headings[1:])))
            if before is not None and before.block is each.block and _PRONOUN.match(text):
                theirs = theirs or is_other(before.text[:LONGEST_SENTENCE], wanted)
            for place, claim in _in_prose(text, each.headings, wanted):
                claim = replace(claim, evidence=document.at(each.line_at(place), text))
                found.append(replace(claim, about="several") if theirs and claim.about != "named" else claim)
        before = each
    yield from sorted(found, key=lambda claim: int(claim.evidence.where.split()[1]))


def _in_prose(text: str, headings: tuple[str, ...], wanted: frozenset[str]) -> Iterator[tuple[int, Claim]]:
    """Claims of a sentence with their places in it."""
    mtp = any("mtp" in title.lower() for title in headings)
    matches = list(islice(QUANTITY.finditer(text), MOST_FIGURES))
    low = text.lower()
    begins = [0, *(match.end() for match in matches)]
    ends = [*(match.start() for match in matches[1:]), len(text)]
    roles: dict[re.Match[str], Kind] = {}
    for match, begin, end in zip(matches, begins, ends, strict=False):
        near = low[max(0, match.start() - 60) : match.start()]
        kind = _role(low, match, begin, end, mtp or bool(re.search(r"mtp|multi-token[- ]prediction", near)))
        if kind is not None:
            roles[match] = kind
    for first, second in pairwise(matches):  # "activates 14B of its 142B parameters": the part, and the whole
        if second in roles and _PART_OF.fullmatch(low[first.end() : second.start()]):
            roles |= {first: "activated", second: "total"}
            if not re.search(r"activ|(?:per|each|every) token", low):
                del roles[first]
    figures: dict[tuple[Kind, int], set[str]] = {}
    for match, kind in roles.items():
        if not _is_bare(match, text[match.end() :][:40]):
            figures.setdefault((kind, _clause(text, match.start())), set()).add(match[0])
    for match in sorted(roles, key=lambda each: each.start()):
        kind, begin = roles[match], _clause(text, match.start())
        alone = len(figures.get((kind, begin), ())) < 2
        about = whose(low, match, kind, begin, wanted) if alone else "several"
        about = "several" if kind == "gpu_hours" and not _of_the_run(text, wanted) else about
        yield match.start(), _claim(match, kind, text[match.end() : match.end() + 90], about)
    spent: About = "some" if "$" in text and _of_the_run(text, wanted) else "several"
    for match in islice(_MONEY.finditer(text), MOST_FIGURES):
        before, after = low[max(0, match.start() - 80) : match.start()], low[match.end() :][:80]
        if re.match(r"\s*(?:/|per|an?)\s*(?:\w+[ -])?(?:gpu[ -])?hour", after):
            yield match.start(), _claim(match, "dollars_per_hour", after, spent)
        elif re.search(r"cost|train|total", before + after):
            yield match.start(), _claim(match, "dollars", after, spent)


def _of_the_run(text: str, wanted: frozenset[str]) -> bool:
    """Whether nothing in a sentence on hours or money speaks of more than the run, of another use or another model."""
    named = (match[0] for match in _NUMBERED.finditer(text) if not _DEVICES.search(match[0]))
    return not _NOT_THE_RUN.search(text) and all(any(map(normalise(each).startswith, wanted)) for each in named)


def _clause(line: str, place: int) -> int:
    """Where the part of a sentence begins that a place is in."""
    return max(line.rfind(mark, 0, place) for mark in (". ", "! ", "? ", "; ")) + 1


def _role(low: str, match: re.Match[str], begin: int, end: int, mtp: bool) -> Kind | None:
    """What a number counts, from the words between the figures next to it."""
    before, after = low[max(begin, match.start() - 120) : match.start()], low[match.end() : min(end, match.end() + 120)]
    wide_before, wide_after = low[max(0, match.start() - 120) : match.start()], low[match.end() : match.end() + 120]
    scale = (match["scale"] or "").lower()
    value = read_quantity(match["number"], scale or None)[0]
    if context := _context(wide_before, wide_after, match):
        return context
    if _BOUND.search(wide_before):
        return None
    if re.match(r"\s*(?:[a-z-]+\s+){0,5}?tokens\b(?! per|/)", after) and value >= 1e9:
        return "tokens"
    if re.match(r"\s*(?:\w+ ){0,2}(?:gpu|tpu|chip|device)[ -]?hours\b", wide_after):
        return "gpu_hours"
    if (SCALES[scale] if scale else value) < 1e6:
        return None
    if re.search(r"mtp|multi-token prediction", after[:60]) and re.match(r"\s*(?:\w+ ){0,3}of ", after):
        return "mtp_stored"
    if re.search(r"total size\b.{0,80}\bis\s*$", before):
        return "stored"
    if "param" not in low and "activ" not in low:
        return None
    own = _PARTING.split(after, maxsplit=1)[0]
    left = _CLAUSE.split(before)[-1] if not re.search(r"\([^()]*\)\s*[:=]\s*$", before) else before
    if _ACTIVE_AFTER.match(own):
        return "mtp_activated" if mtp else "activated"
    if not _TOTAL_AFTER.match(own) and _ACTIVE_BEFORE.search(left) and not _NOT_PARAMETERS.match(own):
        return "mtp_activated" if mtp else "activated"
    total = _TOTAL_AFTER.match(own) or _PARAM_AFTER.match(own) or _PARAM_BEFORE.search(left)
    if total or (_TOTAL_BEFORE.search(left) and "param" in low):
        return "mtp" if mtp else "total"
    return None


def _context(before: str, after: str, match: re.Match[str]) -> Kind | None:
    """Whether the number is a context length, natively or by a way to extend it."""
    scale, least = match["scale"], 256 if match["scale"] or "," in match["number"] else 1000
    if not least <= read_quantity(match["number"], scale)[0] <= 1e9 or (scale and SCALES[scale.lower()] > 1e6):
        return None
    label = r"(?:context|sequence)(?:[ -](?:length|window|size)s?)?"
    said = (
        re.search(rf"{label}(?: support)?\s*(?::|=|\bof|\bis|\bup to|\bto|\bat)?\s*(?:up to |about |over )?$", before)
        or re.search(r"\b(?:supports?|handles?|process)\b[^.;:]{0,40}\bup to\s*$", before)
    ) and _TOKENS_OF_CONTEXT.match(after)
    further = re.search(r"(?:length|window|size)s?: [\d,.]+[km]?[^.;:]{0,30}\b(?:and|to|or|up to)\s*$", before)
    if not said and not further and not re.match(r"[\s-]*(?:tokens?[\s-]*)?context\b", after):
        return None
    if re.match(r"[\s-]*(?:tokens?\s+)?(?:of )?(?:output|generat|respon|complet|parallel|batch|users|images)", after):
        return None
    near = re.split(r"[;,]\s|\. |\band\b", after, maxsplit=1)[0][:50]
    own = re.split(r"[;]\s|\. |\band\b|\bnative\w*", before)[-1][-50:]
    return "context_extended" if further or _EXTENDED.search(near) or _EXTENDED.search(own) else "context"


_COLUMNS: tuple[tuple[Kind, re.Pattern[str], float], ...] = (
    ("activated", re.compile(r"(?=.*activ(?:at|e)).*param|^#?(?:activ\w{1,5})(?: param\w*)?\s?[(\[]"), 1e5),
    ("total", re.compile("param"), 1e5),  # fewer are in a unit that nothing says
    ("context", re.compile(r"context (?:length|window|size)|^(?:max\w{0,4} )?context$"), 256),
    ("gpu_hours", re.compile(r"gpu[ -]?hours"), 0),
    ("tokens", re.compile("tokens"), 1e6),
)
"""What a column's title says of its figures, and the least that these may be."""


def _in_cell(document: Document, cell: Cell, wanted: frozenset[str], name: str) -> Iterator[Claim]:
    """Claims of a cell: of a table of names and values, or of one that has this model in a row or in a column."""
    column = cell.header[cell.column] if cell.column < len(cell.header) else ""
    by_row = any(is_this_model(text, each) for text in cell.row[:2] for each in wanted)
    by_column = any(is_this_model(column, each) for each in wanted)
    label = (column if by_row else " ".join(cell.row[:2]) if by_column else "").lower()
    match = QUANTITY.fullmatch(_TRIMMED.sub("", cell.text)) if len(cell.text) < 80 else None
    several = len(re.findall(r"\d[\d.,]{0,20}", cell.text[:80])) > 1  # "30B (3B active)"
    nameless = len(cell.row) == 2 and all(title.lower().strip(" :#") in _NAMELESS for title in cell.header)
    if nameless or (label and match is None and several):
        said = f"{cell.row[0].rstrip(': ') if nameless else label}: {cell.text}" if cell.column else ""
        for _, claim in _in_prose(said, (), wanted) if len(said) < 400 else ():
            about: About = "named" if label and claim.about == "some" else claim.about
            yield replace(claim, about=about, evidence=document.at(cell.line))
    elif label and match is not None:
        unit = _UNIT.search(label) if not match["scale"] else None
        scale = unit["scale"].rstrip("s") if unit else None
        value = read_quantity(match["number"], match["scale"] or scale)[0]
        kind = next((kind for kind, title, least in _COLUMNS if title.search(label) and least <= value <= 1e17), None)
        if kind is not None and (kind != "context" or value <= 1e9):
            exact = normalise(name) in (normalise(each) for each in (*cell.row[:2], column))
            noted: About = "several" if _FOOTNOTE.search(label + cell.text) else "named" if exact else "some"
            yield replace(_claim(match, kind, label, noted, scale), evidence=document.at(cell.line))


def _is_bare(match: re.Match[str], after: str) -> bool:
    """Whether the words next to a figure, none of another between, leave the embedding out."""
    before = match.string[max(0, match.start() - 30) : match.start()]
    return bool(_NO_EMBEDDING.search(re.split(r"\d", before)[-1] + " " + re.split(r"\d", after[:40])[0]))


def _claim(match: re.Match[str], kind: Kind, after: str, about: About = "some", unit: str | None = None) -> Claim:
    """The claim of a figure; its place is not known yet."""
    scale = match["scale"] or unit
    value, tolerance = read_quantity(match["number"], scale)
    cut = 0.0
    includes: Literal["both", "neither", ""] = ""
    if kind in ("activated", "mtp", "mtp_activated", "total"):
        bare = _is_bare(match, after) or bool(_NEITHER.search(after))
        includes = "both" if _BOTH.search(after) else "neither" if bare else ""
    if kind in ("activated", "total", "tokens", "mtp", "mtp_activated"):
        digits = match["number"].replace(",", "")
        zeros = 10.0 ** (len(digits) - len(digits.rstrip("0"))) if "." not in digits else 1.0
        if scale:  # 120B may be 116.8, and 70B 70.6; a figure without zeros may be cut off
            cut = 2 * tolerance
            tolerance = max(tolerance, min(tolerance * zeros, 0.05 * value))
        else:  # 7,000,000,000 is as precise as 7B
            tolerance = max(tolerance, 0.5 * zeros)
    elif kind in ("context", "context_extended") and scale:  # 128K is 131,072 or 128,000; 1M is 1,000,000 to 1,048,576
        thousands = SCALES[scale.lower()] == 1e3
        value *= 1.024 if thousands else 1.024**2
        tolerance = value * (24 / 1024 if thousands else 0.05)
    near = after[:40] + " " + match.string[max(0, match.start() - 300) : match.start() + 300]
    device = _DEVICES.search(near) if kind == "gpu_hours" else None
    text = match[0].strip()
    return Claim(kind, value, text, tolerance, Evidence(""), includes, device[0] if device else "", about, cut)
