"""Energy and emissions of training: stated, and of the size that device-hours and grids allow.

A device draws at most its board's power, and a data centre a little more; on average it draws less. So stated energy
lies between a share and a bit more of hours times watts. Stated emissions are energy times the intensity of a grid, and
no grid emits more than burning lignite does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Evidence, Grade, Row
from clearseek.audit.read.claims import Claim, read_quantity
from clearseek.audit.read.subject import Subject
from clearseek.plan.formulas import energy_kwh
from clearseek.plan.hardware import Hardware

SHARE: Final = (0.3, 1.5)
"""What stated energy may be of hours times the board's power."""
DIRTIEST: Final = 1.2
"""Kilograms of CO2 a kilowatt-hour, of the dirtiest grids."""
MOST: Final = 200
"""Amounts that are looked at."""
_OF_TRAINING = re.compile(r"train|carbon|emission|footprint|environmental impact", re.I)
_OTHER_USE = re.compile(r"base model|inference|\bper\b|fine-?tun|\beach\b|sav(?:es?|ed|ing)\b|household|a day", re.I)
_NUMBER = r"(?<![\w.,-])(?P<number>\d{1,3}(?:,\d{3}){1,5}(?:\.\d{1,6})?|\d{1,15}(?:\.\d{1,6})?)"
_ENERGY = re.compile(_NUMBER + r"\s?(?P<unit>[kKMGT]Wh)\b")
_CARBON = re.compile(
    _NUMBER + r"\s?(?P<unit>(?:metric )?(?:kilo|mega)?(?:tons?|tonnes?)|kg|[kM]?t)?\s?(?:of )?CO(?:2|\u2082)\w{0,10}",
    re.I,
)
_KWH: Final = {"k": 1.0, "m": 1e3, "g": 1e6, "t": 1e9}
Device = Callable[[Claim], Hardware | None]


@dataclass(frozen=True, slots=True)
class Amount:
    """Energy in kWh or emissions in kg; None where the unit is not said."""

    value: float | None
    text: str
    evidence: Evidence


def rows(subject: Subject, device: Device) -> Iterator[Row]:
    """Whether the energy or emissions that are stated fit the hours and each other; no row where none are."""
    used, emitted = (list(islice(_stated(subject, each), MOST)) for each in (_ENERGY, _CARBON))
    if not used and not emitted:
        return
    places = tuple(dict.fromkeys(each.evidence for each in (*used, *emitted)))[:4]
    fits, wrong = _against_hours(used, _drawn(subject, device))
    stated = ", ".join(dict.fromkeys(each.text for each in (*used, *emitted)[:4]))
    if fits and wrong:
        yield ask.COST_ENERGY.unknown(Grade.CLAIMED, f"{fits}; but {wrong}", *places)
    elif wrong := wrong or _against_energy(used, emitted):
        yield ask.COST_ENERGY.no(Grade.CLAIMED, wrong, *places)
    else:
        yield ask.COST_ENERGY.yes(Grade.CHECKED if fits else Grade.CLAIMED, fits or stated, *places)


def _stated(subject: Subject, pattern: re.Pattern[str]) -> Iterator[Amount]:
    """Amounts in paragraphs and rows of tables that speak of training, or stand under headings that do."""
    word = "wh" if pattern is _ENERGY else "co"
    for document in subject.documents:
        said = [(each.text, each.line, each.headings) for each in document.blocks]
        said += [
            (" ".join(cell.row), cell.line, (*document.headings[cell.line - 1], *cell.header))
            for cell in document.cells
            if cell.column == len(cell.row) - 1
        ]
        for text, line, headings in said:
            if word in text.lower() and _OF_TRAINING.search(" ".join((*headings, text))):
                for match in islice(pattern.finditer(text), 20):
                    yield Amount(_base(match), match[0], document.at(line, text))


def _base(match: re.Match[str]) -> float | None:
    """kWh or kg."""
    unit = (match["unit"] or "").lower().removeprefix("metric ")
    value = read_quantity(match["number"], None)[0]
    if unit.endswith("wh"):
        return value * _KWH[unit[0]]
    factor = {"kg": 1.0, "kt": 1e6, "mt": 0.0}.get(unit, 1e6 if unit.startswith("kilo") else 1e3 if unit else 0.0)
    return value * factor if factor and not unit.startswith("mega") else None


def _drawn(subject: Subject, device: Device) -> list[tuple[Claim, float]]:
    """Hours whose device is known, and the kWh that they are at the board's power, the largest first."""
    found = []
    for claim in dict.fromkeys(subject.stated("gpu_hours")[:MOST]):
        chip = device(claim)
        if chip is not None:
            found.append((claim, energy_kwh(claim.value, chip.watts)))
    return sorted(found, key=lambda each: -each[1])


def _against_hours(used: list[Amount], drawn: list[tuple[Claim, float]]) -> tuple[str, str]:
    """A sentence that energy fits hours, and one that other energy does not; empty where there is none of the kind.

    Hours of several runs together are compared with energy on their own line alone.
    """
    fits = wrong = ""
    for each in used:
        here = [pair for pair in drawn if pair[0].evidence.file == each.evidence.file and pair[1] > 0]
        near = [pair for pair in here if pair[0].evidence.where == each.evidence.where]
        if each.value is None or _OTHER_USE.search(each.evidence.quote):
            continue
        verdicts: dict[bool, str] = {}
        for claim, kwh in near or [pair for pair in here if pair[0].about != "several"]:
            ratio = each.value / kwh
            text = f"{claim.text} {claim.device} hours are {_shown(kwh)} at the board's power; stated: {each.text}"
            verdicts.setdefault(SHARE[0] <= ratio <= SHARE[1], text)
        fits = fits or verdicts.get(True, "")
        wrong = wrong or ("" if True in verdicts else verdicts.get(False, ""))
    return fits, wrong


def _against_energy(used: list[Amount], emitted: list[Amount]) -> str:
    """Why no stated emissions are possible for the energy; empty where some are, or where it is not known."""
    most = max((each.value for each in used if each.value is not None), default=0.0)
    masses = [each for each in emitted if each.value is not None]
    if not most or not masses or any(each.value is not None and each.value <= DIRTIEST * most for each in masses):
        return ""
    first = masses[0]
    assert first.value is not None
    return f"“{first.text}” is more than any grid emits: {first.value / most:,.1f} kg/kWh of {_shown(most)}"


def _shown(kwh: float) -> str:
    return f"{kwh / 1e6:,.2f} GWh" if kwh >= 1e6 else f"{kwh / 1e3:,.1f} MWh" if kwh >= 1e3 else f"{kwh:,.0f} kWh"
