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
from typing import Literal

from clearseek.openness.card import Cell, Document, plain
from clearseek.openness.evidence import Evidence

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
]
SCALES = {
    "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12,
    "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12,
}  # fmt: skip
_NUMBER = r"(?<![\w.$-])(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
QUANTITY = re.compile(_NUMBER + r"[ -]?(?P<scale>[KkMBT]|thousand|[mb]illion|trillion)?(?![\w]|\.\d)")
_MONEY = re.compile(
    r"\$\s?(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)\s?(?P<scale>[KkMB]|[mb]illion|thousand)?\b"
)
_BOTH = re.compile(r"includ\w* .{0,40}embedding.{0,40}head", re.I)
_NEITHER = re.compile(r"exclud\w* .{0,40}embedding.{0,40}head", re.I)
_SUFFIXES = frozenset({"", "base", "chat", "instruct", "it", "zero", "hf", "final"})
_DEVICES = re.compile(r"\b(?:H800|H100|H200|H20|A100|A800|V100|B200|GB200|MI250X?|MI300X|TPU ?v\d\w*)\b")


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
    """Of GPU-hours, where it is named."""

    def agrees(self, actual: float) -> bool:
        """Whether `actual`, rounded as this figure is, gives this figure."""
        return abs(actual - self.value) <= self.tolerance * (1 + 1e-9)


def read_quantity(number: str, scale: str | None) -> tuple[float, float]:
    """Value and tolerance of a written number: ``("36.7", "B")`` -> (36.7e9, 0.05e9)."""
    factor = SCALES[scale.lower()] if scale else 1.0
    digits = number.replace(",", "")
    decimals = len(digits.partition(".")[2])
    return float(digits) * factor, 0.5 * 10.0**-decimals * factor


def find_claims(document: Document, name: str) -> Iterator[Claim]:
    """The claims of a document about the model called `name`, in order of line."""
    wanted = normalise(name)
    found = [claim for cell in document.cells() for claim in _in_cell(document, cell, wanted)]
    fenced = False
    for number, line in enumerate(document.lines, 1):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        elif not fenced and not line.lstrip().startswith("|"):
            found += _in_prose(document, number, plain(line))
    yield from sorted(found, key=lambda claim: int(claim.evidence.where.split()[1]))


@lru_cache(maxsize=1024)
def normalise(name: str) -> str:
    """A model's name as it is compared: letters, digits and dots alone."""
    return re.sub(r"[^a-z0-9.]", "", name.lower())


def is_this_model(found: str, wanted: str) -> bool:
    """Whether a name in a table means the model `wanted` (normalised) or one of the same shape, as its base."""
    name = normalise(found)
    return bool(wanted) and name.startswith(wanted) and name[len(wanted) :] in _SUFFIXES


def _in_prose(document: Document, number: int, line: str) -> Iterator[Claim]:
    mtp = any("mtp" in title.lower() for title in document.headings[number - 1])
    for match in QUANTITY.finditer(line):
        near = line[max(0, match.start() - 60) : match.start()].lower()
        kind = _role(line, match, mtp or bool(re.search(r"mtp|multi-token[- ]prediction", near)))
        if kind is None:
            continue
        after = line[match.end() : match.end() + 90]
        yield _claim(document, number, match, kind, line, after)
    for match in _MONEY.finditer(line):
        before, after = line[: match.start()].lower(), line[match.end() :].lower()
        if re.match(r"\s*(?:/|per|an?)\s*(?:\w+[ -])?(?:gpu[ -])?hour", after):
            yield _claim(document, number, match, "dollars_per_hour", line, after)
        elif re.search(r"cost|train|total", before[-80:] + after[:80]):
            yield _claim(document, number, match, "dollars", line, after)


def _role(line: str, match: re.Match[str], mtp: bool) -> Kind | None:
    """What the number on this line counts, from the words next to it."""
    before, after = line[: match.start()].lower(), line[match.end() :].lower()
    scaled = match["scale"] is not None
    if re.match(r"\s*(?:[\w-]+\s+){0,5}?tokens\b(?! per)", after) and scaled and match["scale"].lower() not in "km":
        return "tokens"
    if re.match(r"\s*(?:\w+ ){0,2}(?:gpu|tpu|chip|device)[ -]?hours\b", after):
        return "gpu_hours"
    large = scaled and match["scale"].lower() in ("b", "m", "t", "billion", "million", "trillion")
    if not large:
        return None
    if re.search(r"mtp|multi-token prediction", after[:60]) and re.match(r"\s*(?:\w+ ){0,3}of ", after):
        return "mtp_stored"
    if re.match(r"\s*(?:param\w*\s+)?(?:are\s+)?activated\b", after) or re.search(
        r"activat\w*\s+param\w*\s*[:=]?\s*(?:of |is |are )?$", before
    ):
        return "mtp_activated" if mtp else "activated"
    if re.search(r"total size\b.{0,80}\bis\s*$", before):
        return "stored"
    unique = re.match(r"\s*(?:unique |total |model )?param", after) or re.search(r"param\w*\s*[:=]\s*$", before)
    if unique and not re.search(r"active|activat", before[-30:] + after[:30]):
        return "mtp" if mtp else "total"
    return None


def _in_cell(document: Document, cell: Cell, wanted: str) -> Iterator[Claim]:
    """A claim in a table: models in rows and figures in columns, or the other way round."""
    match = QUANTITY.fullmatch(cell.text)
    if not match:
        return
    column = cell.header[cell.column] if cell.column < len(cell.header) else ""
    about_row = next((text for text in cell.row[:2] if is_this_model(text, wanted)), "")
    label = column if about_row else " ".join(cell.row[:2]) if is_this_model(column, wanted) else ""
    label = label.lower()
    if not label:
        return
    kind: Kind | None = None
    if re.search(r"activat|active", label) and "param" in label:
        kind = "activated"
    elif "param" in label:
        kind = "total"
    elif re.search(r"context", label):
        kind = "context"
    elif re.search(r"gpu[ -]?hours", label):
        kind = "gpu_hours"
    elif re.search(r"tokens", label) and match["scale"]:
        kind = "tokens"
    if kind is not None:
        yield _claim(document, cell.line, match, kind, cell.text, label)


def _claim(document: Document, number: int, match: re.Match[str], kind: Kind, line: str, after: str) -> Claim:
    value, tolerance = read_quantity(match["number"], match["scale"])
    text = match[0].strip()
    includes: Literal["both", "neither", ""] = ""
    if kind in ("activated", "mtp", "mtp_activated", "total"):
        includes = "both" if _BOTH.search(after) else "neither" if _NEITHER.search(after) else ""
    device = _DEVICES.search(after[:40] + line) if kind == "gpu_hours" else None
    if kind == "context" and match["scale"] in ("K", "k"):
        value, tolerance = float(match["number"]) * 1024, 24.0 * float(match["number"])  # 128K is 131,072 or 128,000
    return Claim(kind, value, text, tolerance, document.at(number), includes, device[0] if device else "")
