"""Operations: how many training took, by the publisher's word and by arithmetic; and devices times duration.

The operations of a run follow from its parameters and its tokens, so a stated number of them can be checked. They also
decide what the AI Act presumes of a model: from 10^23 on that it is a general-purpose one, from 10^25 on that it may be
a systemic risk (article 51). And where a text says how many devices ran for how long, that product is the hours that it
states: "648 GPUs" has been printed for a run on 64 x 8.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Answer, Evidence, Grade, Row
from clearseek.audit.facts import ComputeFact
from clearseek.audit.read.card import shorten
from clearseek.audit.read.claims import read_quantity
from clearseek.audit.read.subject import Subject
from clearseek.plan.formulas import compute_class

CONVENTIONS: Final = (0.7, 1.5)
"""What a stated number may be of the computed: with or without attention, embedding, head and MTP, rounded."""
MOST: Final = 200
"""Statements that are looked at."""
SYSTEMIC: Final = 1e25
_NUMBER = r"(?P<number>\d{1,3}(?:,\d{3}){1,6}(?:\.\d{1,9})?|\d{1,18}(?:\.\d{1,9})?)"
_UNIT = r"\$?\s*(?:FLOPs?\b(?!/|\s*per|\s*utili)|floating[- ]point operations|operations\b)"
_POWER = re.compile(
    rf"(?<![\w.,]){_NUMBER}\s?(?:(?:[x\u00d7*]|\\times)\s?10\s?\^?\s?\{{?(?P<power>\d{{2}}|[⁰¹²³⁴-⁹]{{2}})\}}?"
    rf"|e\+?(?P<exponent>\d{{2}})){_UNIT}",
    re.I,
)
_CHIP = (
    r"(?:(?:NVIDIA|AMD|Google) )?(?:[A-Z]{1,10}\d{1,6}[A-Za-z]{0,10}(?:[- ]\d{1,4} ?GB)? )?"
    r"(?:GPUs?|TPUs?|chips|accelerators)"
)
_CLUSTER = re.compile(
    rf"(?<![\w.,*x\u00d7])(?P<left>\d[\d,]{{0,20}})(?:\s?[*x\u00d7]\s?(?P<right>\d[\d,]{{0,20}}))? {_CHIP}\b"
    r"(?![- ]hours?)",
    re.I,
)
_DURATION = re.compile(rf"(?<![\w.,]){_NUMBER} (?P<unit>hours?|days?|weeks?)\b", re.I)
_TOTAL = re.compile(
    rf"(?<![\w.,$]){_NUMBER}\s?(?P<scale>[KkMB]|thousand|million)? (?:\w{{1,30}} )?(?:GPU|TPU|chip|device)[ -]?hours\b",
    re.I,
)
_SPAN = re.compile(r"\d.{0,400}\b(?:hours?|days?|weeks?)\b", re.I)
_HOURS: Final = {"hour": 1, "day": 24, "week": 168}
_RAISED: Final = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")


@dataclass(frozen=True, slots=True)
class Stated:
    """A number of operations that a text states."""

    value: float
    text: str
    evidence: Evidence


def rows(
    subject: Subject, computed: tuple[float, ...], tokens: Evidence | None, shapes: bool = False, doubt: str = ""
) -> Iterator[Row]:
    """The thresholds; operations, and devices times duration, where they are stated.

    Args:
        subject: The release.
        computed: Its operations by 6ND and with attention, as far as they can be had.
        tokens: Where the tokens stand that they were computed from.
        shapes: Whether the parameters are those of the configuration, and not the card's word.
        doubt: Why the tokens may be another run's; then nothing is shown.
    """
    stated = list(islice(stated_operations(subject), MOST))
    if stated:
        yield _agree(stated, computed, tokens, doubt)
    yield _threshold(stated, computed, tokens, Grade.CHECKED if shapes and not doubt else Grade.CLAIMED, doubt)
    yield from _devices(subject)


def stated_operations(subject: Subject) -> Iterator[Stated]:
    """Numbers of training's operations in prose, in order."""
    for document in subject.documents:
        for sentence in document.sentences:
            for match in _POWER.finditer(sentence.text) if re.search("flop|operations", sentence.text, re.I) else ():
                power = (match["power"] or match["exponent"]).translate(_RAISED)
                value = float(match["number"].replace(",", "")) * 10.0 ** int(power)
                if value >= 1e12:  # fewer are of a layer or a token
                    yield Stated(value, match[0], document.at(sentence.line_at(match.start())))


def _agree(stated: list[Stated], computed: tuple[float, ...], tokens: Evidence | None, doubt: str) -> Row:
    shown = " to ".join(f"{value:.2e}" for value in sorted({min(computed), max(computed)})) if computed else ""
    places = (*(each.evidence for each in stated[:4]), *([tokens] if tokens else []))
    if not computed or doubt:
        reason = f"“{stated[0].text}” is stated; {doubt or 'tokens or parameters to compute it from are not'}"
        return ask.COST_OPERATIONS.unknown(Grade.CLAIMED, reason, *places)
    low, high = CONVENTIONS[0] * min(computed), CONVENTIONS[1] * max(computed)
    fine = next((each for each in stated if low <= each.value <= high), None)
    if fine is None:
        reason = f"“{stated[0].text}” is not what tokens and parameters give: {shown}"
        return ask.COST_OPERATIONS.no(Grade.CLAIMED, reason, *places)
    return ask.COST_OPERATIONS.yes(Grade.CHECKED, f"“{fine.text}” agrees with {shown}", *places)


def _threshold(
    stated: list[Stated], computed: tuple[float, ...], tokens: Evidence | None, grade: Grade, doubt: str
) -> Row:
    """Two thresholds of the AI Act; both counts must lie on one side of the higher.

    The most tokens that are stated are taken, so a doubt about them speaks against “no” alone.
    """
    values = computed or tuple(each.value for each in stated)
    if not values:
        return ask.COST_THRESHOLD.unknown(Grade.ABSENT, "neither stated nor to be computed")
    places = tuple([tokens] if computed and tokens else [each.evidence for each in stated[:2]])
    most, kind = max(values), compute_class(max(values))
    where = {
        "below 1e23": "under 10^23, below which a model is not taken for a general-purpose one",
        "1e23 or more": "from 10^23 on a model is taken for a general-purpose one",
        "1e25 or more": "from 10^25 on a systemic risk is presumed (AI Act, article 51)",
    }[kind]
    answer: Answer = "no" if not doubt and min(values) >= SYSTEMIC else "yes" if most < SYSTEMIC else "unknown"
    reason = f"{most:.2e}: {where}{doubt and f'; {doubt}'}"
    return ask.COST_THRESHOLD.answer(answer, grade, reason, *places, facts=(ComputeFact(most, None),))


def _devices(subject: Subject) -> Iterator[Row]:
    """Devices times duration, in the sentence that states both and the hours."""
    found = [
        (*verdict, document.at(sentence.line, shorten(sentence.text)))
        for document in subject.documents
        for sentence in islice((each for each in document.sentences if _SPAN.search(each.text)), MOST)
        if (verdict := product(sentence.text)) is not None
    ]
    chosen = [each for each in found if not each[0]] or found
    if chosen:
        reason, places = "; ".join(text for _, text, _ in chosen[:4]), [place for _, _, place in chosen[:8]]
        fine = chosen[0][0]
        grade = Grade.CHECKED if fine else Grade.CLAIMED
        yield ask.COST_DEVICES.answer("yes" if fine else "no", grade, reason, *places)


def product(sentence: str) -> tuple[bool, str] | None:
    """Whether a sentence's devices times its duration are its device-hours; None unless it has one of each."""
    clusters, totals = list(_CLUSTER.finditer(sentence)), list(_TOTAL.finditer(sentence))
    spans = [match.span() for match in totals]
    times = [
        match for match in _DURATION.finditer(sentence) if not any(begin <= match.start() < end for begin, end in spans)
    ]
    if len(clusters) != 1 or len(totals) != 1 or len(times) != 1:
        return None
    count = float(clusters[0]["left"].replace(",", "")) * float((clusters[0]["right"] or "1").replace(",", ""))
    time, slack = read_quantity(times[0]["number"], None)
    unit = _HOURS[times[0]["unit"].lower().rstrip("s")]
    total, spread = read_quantity(totals[0]["number"], totals[0]["scale"])
    computed, slack = count * time * unit, count * slack * unit
    text = f"{clusters[0][0]} for {times[0][0]} are {computed:,.0f} device-hours; stated: {totals[0][0]}"
    return abs(computed - total) <= slack + spread, text
