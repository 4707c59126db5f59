"""Numbers that a card states about its model, each with its line, its rounding and its conventions.

A card's figures are claims, and most are arithmetic: parameters follow from shapes, utilisation from tokens and hours,
cost from hours and a price. So they are read here, and compared where the other side of the equation is known. A
figure is found by the words around it, in prose and in tables; one that is not understood is not a claim, since a wrong
accusation is worse than none. "36.7B" claims 36.65 to 36.75: a figure is as precise as it is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Literal

from clearseek.audit.evidence import Evidence
from clearseek.audit.read.card import Cell, Document, plain

Kind = Literal[
    "total",
    "activated",
    "mtp",
    "mtp_activated",
    "mtp_stored",
    "stored",
    "tokens",
    "gpu_hours",
    "dollars",
    "dollars_per_hour",
    "context",
    "context_extended",
]
About = Literal["named", "some", "several"]
SCALES = {
    "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12,
    "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12,
}  # fmt: skip
MOST_FIGURES = 100
MOST_CLAIMS = 5_000
"""Figures of a line that are looked at, and claims of a document."""
_NUMBER = r"(?<![\w.,$-])(?P<number>\d{1,3}(?:,\d{3}){1,6}(?:\.\d{1,9})?|\d{1,18}(?:\.\d{1,9})?)"
_TOPICS = ("param", "activ", "token", "hours", "context", "sequence", "total size", "mtp", "multi-token")
"""Words of which a claim has one."""
_DIGIT = re.compile(r"\d")
QUANTITY = re.compile(
    _NUMBER + r"[ -]?(?P<scale>[KkMBT]|[Tt]housand|[MmBb]illion|[Tt]rillion)?(?![\w]|\.\d|,\d{3}(?!\d))"
)
_MONEY = re.compile(
    r"\$\s?(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)\s?(?P<scale>[KkMB]|[mb]illion|thousand)?\b"
)
_BOTH = re.compile(r"includ\w* .{0,40}embedding.{0,40}head", re.I)
_NEITHER = re.compile(r"exclud\w* .{0,40}embedding.{0,40}head", re.I)
_NO_EMBEDDING = re.compile(r"non[- ]?embedding|(?:without|exclud\w{0,5}) (?:the )?(?:input )?embedding", re.I)
_SUFFIXES = frozenset({"", "base", "chat", "instruct", "it", "zero", "hf", "final"})
_DEVICES = re.compile(r"\b(?:H800|H100|H200|H20|A100|A800|V100|B200|GB200|MI250X?|MI300X|TPU ?v\d\w{0,3})\b")
_SCALED = r"\d(?:[\d.,]{0,20}\d)?[ -]?(?:[kmbt]|thousand|[mb]illion|trillion)?"
_LISTED_BEFORE = re.compile(
    r"\d(?:[\d.,]{0,20}\d)?(?:[ -]?(?:[kmbt]|thousand|[mb]illion|trillion)\)?(?:, ?|[-\u2013\u2014/+])"
    r"|(?:[ -]?(?:[kmbt]|thousand|[mb]illion|trillion))?\)?,? (?:and|or|to|through|&) (?:over |up to )?)$"
)
_LISTED_AFTER = re.compile(
    rf"(?:,? (?:and|or|to|through|&) |, ?(?:and |or )?|[-\u2013\u2014/+]){_SCALED}(?![\w]| ?\(?activ)"
)
_OTHER_MODEL = re.compile(
    r"teacher|student|draft|reward model|judge|experts? (?:of|with|has|have)|(?:vision|image|audio|speech|text) "
    r"(?:encoder|tower|model)|projector|adapter|\blora\b|famil(?:y|ies)|\bsuites?\b|collection|\brang(?:e|ing)\b|\bsizes\b|series|"
    r"variants|counterpart|(?:larger|smaller|bigger|better) than|compared (?:to|with)|distil|"
    r"predecessor|previous|cumulative|nominal|equivalent"
)
_COMPARED = re.compile(
    r"\b(?:outperform\w{0,3}|surpass\w{0,3}|beats?|rivals?|match(?:es|ing)|on par|comparable|competitive|against|"
    r"versus|vs|unlike|models (?:with|of|up to|at|in|having|around|such))\b"
)
"""Before a figure: words of a comparison, so that the figure may be the other's."""
_PLURAL = re.compile(r"[\s-]*(?:total )?param\w{0,10}(?: [a-z]{1,12})? models\b")
_WORD = re.compile(r"[a-z][\w.+-]{0,80}|\d[\w.]{0,20}")
_SIZED = re.compile(r"[a-z][\w.]*-(?:[\w.]+-)*\d+(?:\.\d+)?[bm](?:-\w+)*")
_EXTENDED = re.compile(r"yarn|extrapol|exten[ds]|rope|ntk|scal|interpol")
_OTHER_CONTEXT = re.compile(
    r"\b(?:pre-?|post-?)?train|evaluat|\btest|recommend|suggest|\bset\b|deploy|\bserv|reduc|limit|needle|bench|short|long-context|output|"
    r"generat|stage|phase|memory|gpu"
)
_TOKENS_OF_CONTEXT = re.compile(r"\s*-?(?:tokens?\b|context|$|[\s.,;)(])")
_NAMELESS = frozenset({
    "", "property", "attribute", "item", "feature", "field", "key", "name", "value", "details", "detail", "description",
    "specification", "spec", "hyperparameter", "info", "information",
})  # fmt: skip
"""Headers of a table that holds names and values."""
_BOUND = re.compile(r"\b(?:less than|fewer than|under|below|at most)\s*$|\d\s?(?:[kmbt]|\w*illion|thousand)? to\s*$")
"""Before a figure that says only how far it may go."""
_TRIMMED = re.compile(r"^[~\u2248] ?| (?:total )?(?:tokens|param\w{0,10})$")


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

    def agrees(self, actual: float) -> bool:
        """Whether `actual`, rounded as this figure is, gives this figure."""
        return abs(actual - self.value) <= self.tolerance * (1 + 1e-9)

    def overlaps(self, other: Claim) -> bool:
        """Whether one number, rounded as each of the two is, can give both; so may those that count other things."""
        if (self.includes == "neither") != (other.includes == "neither"):
            return True
        return abs(self.value - other.value) <= (self.tolerance + other.tolerance) * (1 + 1e-9)


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
        low = max((claim.value - claim.tolerance for claim in group), default=0.0)
        high = min((claim.value + claim.tolerance for claim in group), default=0.0)
        if low > high * (1 + 1e-9):
            return False
    return True


def read_quantity(number: str, scale: str | None) -> tuple[float, float]:
    """Value and tolerance of a written number: ``("36.7", "B")`` -> (36.7e9, 0.05e9)."""
    factor = SCALES[scale.lower()] if scale else 1.0
    digits = number.replace(",", "")
    decimals = len(digits.partition(".")[2])
    return float(digits) * factor, 0.5 * 10.0**-decimals * factor


def find_claims(document: Document, name: str) -> Iterator[Claim]:
    """The claims of a document about the model called `name`, in order of line."""
    wanted = normalise(name)
    found: list[Claim] = []
    for cell in document.cells:
        if len(cell.row) == 2 and all(title.lower().strip(" :#") in _NAMELESS for title in cell.header):
            if cell.column and len(cell.text) < 300:
                found += _in_prose(document, cell.line, f"{cell.row[0].rstrip(': ')}: {cell.text}", wanted)
        else:
            found += _in_cell(document, cell, wanted)
    fenced = False
    for number, line in enumerate(document.lines, 1):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        elif not fenced and len(found) < MOST_CLAIMS and not line.lstrip().startswith("|") and _DIGIT.search(line):
            found += _in_prose(document, number, plain(line), wanted)
    yield from sorted(found, key=lambda claim: int(claim.evidence.where.split()[1]))


@lru_cache(maxsize=1024)
def normalise(name: str) -> str:
    """A model's name as it is compared: letters, digits and dots alone."""
    return re.sub(r"[^a-z0-9.]", "", name.lower())


def is_this_model(found: str, wanted: str) -> bool:
    """Whether a name in a table means the model `wanted` (normalised) or one of the same shape, as its base."""
    name = normalise(found)
    return bool(wanted) and name.startswith(wanted) and name[len(wanted) :] in _SUFFIXES


def _in_prose(document: Document, number: int, line: str, wanted: str) -> Iterator[Claim]:
    mtp = any("mtp" in title.lower() for title in document.headings[number - 1])
    found: list[tuple[Kind, re.Match[str]]] = []
    for match in islice(QUANTITY.finditer(line), MOST_FIGURES) if any(word in line.lower() for word in _TOPICS) else ():
        near = line[max(0, match.start() - 60) : match.start()].lower()
        kind = _role(line, match, mtp or bool(re.search(r"mtp|multi-token[- ]prediction", near)))
        if kind is not None:
            found.append((kind, match))
    if not found and "$" not in line:
        return
    place = document.at(number)
    figures: dict[tuple[Kind, int], set[str]] = {}
    for kind, match in found:
        if not _is_bare(match, line[match.end() :][:40]):
            figures.setdefault((kind, _sentence(line, match.start())), set()).add(match[0])
    for kind, match in found:
        begin = _sentence(line, match.start())
        alone = len(figures.get((kind, begin), ())) < 2
        about = _about(line, match, kind, begin, wanted) if alone else "several"
        yield _claim(place, match, kind, line[match.end() : match.end() + 90], about)
    for match in islice(_MONEY.finditer(line), MOST_FIGURES):
        before, after = line[max(0, match.start() - 80) : match.start()].lower(), line[match.end() :][:80].lower()
        if re.match(r"\s*(?:/|per|an?)\s*(?:\w+[ -])?(?:gpu[ -])?hour", after):
            yield _claim(place, match, "dollars_per_hour", after)
        elif re.search(r"cost|train|total", before + after):
            yield _claim(place, match, "dollars", after)


def _sentence(line: str, place: int) -> int:
    """Where the sentence begins that a place of a line is in."""
    return max(line.rfind(mark, 0, place) for mark in (". ", "! ", "? ", "; ")) + 1


def _about(line: str, match: re.Match[str], kind: Kind, begin: int, wanted: str) -> About:
    """Whose figure it is, by the words of its sentence: when in doubt, not this model's."""
    begin = max(begin, match.start() - 200)
    before, after = line[begin : match.start()].lower(), line[match.end() : match.end() + 60].lower()
    after = re.split(r"[.;!?] ", after)[0]
    words = before + match[0] + after
    if kind in ("context", "context_extended"):
        return "several" if _OTHER_CONTEXT.search(words) else "some"
    if _OTHER_MODEL.search(words) or _COMPARED.search(before) or _PLURAL.match(after):
        return "several"
    if kind in ("total", "activated", "tokens") and (_LISTED_BEFORE.search(before) or _LISTED_AFTER.match(after)):
        return "several"
    names = [word.strip(".-+") for word in _WORD.findall(before + " " + after)][:80]
    if any(_is_sibling(each, wanted) for each in names):
        return "several"
    spoken = ("".join(names[place : place + size]) for place in range(len(names)) for size in (1, 2, 3))
    return "named" if wanted in normalise(words) and any(is_this_model(each, wanted) for each in spoken) else "some"


def _is_sibling(name: str, wanted: str) -> bool:
    """Whether a word is another model's name: one with a size in it, or this one's with more behind it."""
    if "-" not in name or is_this_model(name, wanted):
        return False
    parts = name.split("-")
    longer = any(normalise("".join(parts[:count])) == wanted for count in range(1, len(parts)))
    return (bool(wanted) and longer) or bool(_SIZED.fullmatch(name))


_LARGE = ("b", "m", "t", "billion", "million", "trillion")
_ACTIVE = r"activ(?:e|ated|ations?)\b"


def _role(line: str, match: re.Match[str], mtp: bool) -> Kind | None:
    """What the number on this line counts, from the words next to it."""
    before = line[max(0, match.start() - 120) : match.start()].lower()
    after = line[match.end() : match.end() + 120].lower()
    scale = (match["scale"] or "").lower()
    written_out = not scale and float(match["number"].replace(",", "")) >= 1e6
    if context := _context(before, after, match):
        return context
    if _BOUND.search(before):
        return None
    if re.match(r"\s*(?:[a-z-]+\s+){0,5}?tokens\b(?! per|/)", after):
        large = scale not in ("", "k", "m", "thousand", "million")
        if large or (written_out and float(match["number"].replace(",", "")) >= 1e9):
            return "tokens"
    if re.match(r"\s*(?:\w+ ){0,2}(?:gpu|tpu|chip|device)[ -]?hours\b", after):
        return "gpu_hours"
    if scale not in _LARGE and not written_out:
        return None
    if re.search(r"mtp|multi-token prediction", after[:60]) and re.match(r"\s*(?:\w+ ){0,3}of ", after):
        return "mtp_stored"
    if (
        re.match(rf"[\s-]*(?:param\w*\s+)?(?:are\s+|is\s+)?{_ACTIVE}(?!\s+(?:users|learn|develop))", after)
        or re.search(r"activ\w{1,8}\s+param\w*(?: count)?\s*[:=]?\s*(?:of |is |are )?$", before)
        or re.match(r"\s*param\w*\s+(?:are used |used )?(?:per|for each|for every)\s+token", after)
    ):
        return "mtp_activated" if mtp else "activated"
    if re.search(r"total size\b.{0,80}\bis\s*$", before):
        return "stored"
    if (
        re.match(r"[\s-]*(?:unique |total |model |in total )*param", after)
        or re.search(r"param\w*(?: count| size)?(?: ?\([^()]{0,40}\))?\s*[:=]\s*$", before)
        or re.search(r"(?:param\w* (?:count|size) (?:of|is)|number of param\w* is) $", before)
        or (re.match(r"\s*(?:in )?total\b", after) and re.search(r"param|activ", before[-60:] + after[:60]))
    ):
        return "mtp" if mtp else "total"
    return None


def _context(before: str, after: str, match: re.Match[str]) -> Kind | None:
    """Whether the number is a context length, natively or by a way to extend it."""
    scale = (match["scale"] or "").lower()
    if scale not in ("", "k", "m") or not 256 <= read_quantity(match["number"], scale or None)[0] <= 1e9:
        return None
    if not scale and not ("," in match["number"] or len(match["number"]) > 3):
        return None
    label = r"(?:context|sequence)[ -](?:length|window|size)s?"
    said = (
        re.search(rf"{label}(?: support)?\s*(?::|=|\bof|\bis|\bup to|\bto|\bat)?\s*(?:up to |about |over )?$", before)
        or re.search(r"\b(?:supports?|handles?|process)\b[^.;:]{0,40}\bup to\s*$", before)
    ) and _TOKENS_OF_CONTEXT.match(after)
    further = re.search(rf"{label}: [\d,.]+[km]?[^.;:]{{0,30}}\b(?:and|to|or|up to)\s*$", before)
    if not said and not further and not re.match(r"[\s-]*(?:tokens?[\s-]*)?context\b", after):
        return None
    if re.match(r"[\s-]*(?:tokens?\s+)?(?:of )?(?:output|generat|respon|complet|parallel|batch|users|images)", after):
        return None
    near = re.split(r"[;,]\s|\. |\band\b", after, maxsplit=1)[0][:50]
    own = re.split(r"[;]\s|\. |\band\b|\bnative\w*", before)[-1][-50:]
    return "context_extended" if further or _EXTENDED.search(near) or _EXTENDED.search(own) else "context"


def _in_cell(document: Document, cell: Cell, wanted: str) -> Iterator[Claim]:
    """A claim in a table: models in rows and figures in columns, or the other way round."""
    match = QUANTITY.fullmatch(_TRIMMED.sub("", cell.text)) if len(cell.text) < 60 else None
    if not match:
        return
    column = cell.header[cell.column] if cell.column < len(cell.header) else ""
    about_row = next((text for text in cell.row[:2] if is_this_model(text, wanted)), "")
    label = column if about_row else " ".join(cell.row[:2]) if is_this_model(column, wanted) else ""
    label = label.lower()
    value = read_quantity(match["number"], match["scale"])[0]
    if not label:
        return
    kind: Kind | None = None
    if re.search(r"activat|active", label) and "param" in label and value >= 1e5:
        kind = "activated"
    elif "param" in label and value >= 1e5:  # fewer are in a unit that the header has
        kind = "total"
    elif re.search(r"context (?:length|window|size)|^(?:max\w{0,4} )?context$", label) and 256 <= value <= 1e9:
        kind = "context"
    elif re.search(r"gpu[ -]?hours", label):
        kind = "gpu_hours"
    elif re.search(r"tokens", label) and match["scale"]:
        kind = "tokens"
    if kind is not None:
        place = document.at(cell.line)
        yield _claim(place, match, kind, label, "named")


def _is_bare(match: re.Match[str], after: str) -> bool:
    """Whether the words next to a figure, none of another between, leave the embedding out."""
    before = match.string[max(0, match.start() - 30) : match.start()]
    return bool(_NO_EMBEDDING.search(re.split(r"\d", before)[-1] + " " + re.split(r"\d", after[:40])[0]))


def _claim(place: Evidence, match: re.Match[str], kind: Kind, after: str, about: About = "some") -> Claim:
    value, tolerance = read_quantity(match["number"], match["scale"])
    text = match[0].strip()
    includes: Literal["both", "neither", ""] = ""
    if kind in ("activated", "mtp", "mtp_activated", "total"):
        bare = _is_bare(match, after) or bool(_NEITHER.search(after))
        includes = "both" if _BOTH.search(after) else "neither" if bare else ""
    if kind in ("activated", "total", "tokens") and not match["scale"]:
        digits = match["number"].replace(",", "")  # 7,000,000,000 is as precise as 7B
        tolerance = max(tolerance, 0.5 * 10.0 ** (len(digits) - len(digits.rstrip("0")))) if "." not in digits else 0.5
    near = after[:40] + " " + match.string[max(0, match.start() - 300) : match.start() + 300]
    device = _DEVICES.search(near) if kind == "gpu_hours" else None
    if kind in ("context", "context_extended") and match["scale"]:
        unit = 1024.0 if match["scale"] in ("K", "k") else 1024.0 * 1024.0
        # 128K is 131,072 or 128,000; 1M is 1,000,000 to 1,048,576
        value = float(match["number"].replace(",", "")) * unit
        tolerance = value * (24 / 1024 if unit == 1024 else 0.05)
    return Claim(kind, value, text, tolerance, place, includes, device[0] if device else "", about)
