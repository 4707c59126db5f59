"""Operations: how many training took, by the publisher's word and by arithmetic; devices times duration; energy.

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
from clearseek.audit.evidence import Answer, Grade, Row
from clearseek.audit.facts import ComputeFact
from clearseek.plan.formulas import compute_class
from clearseek.reading.claims import Claim, read_quantity
from clearseek.reading.evidence import Evidence
from clearseek.reading.subject import Subject
from clearseek.reading.words import cue

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
_CLUSTER = re.compile(
    r"(?<![\w.,*x\u00d7])(?P<left>\d[\d,]{0,20})(?:\s?[*x\u00d7]\s?(?P<right>\d[\d,]{0,20}))? "
    r"(?:[A-Z][\w-]{0,15} ){0,2}(?:\d{1,4} ?GB )?(?:GPUs?|TPUs?|chips|accelerators)\b(?![- ]hours?)"
)
_DURATION = re.compile(rf"(?<![\w.,]){_NUMBER} (?P<unit>hour|day|week)s?\b", re.I)
_HOURS: Final = {"hour": 1, "day": 24, "week": 168}
_NO_PRODUCT = cue("not_a_product")
_RAISED: Final = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_ENERGY = re.compile(rf"(?<![\w.,-]){_NUMBER}\s?(?:[kMGT]Wh\b|(?:\w{{1,6}} ){{0,2}}(?:k|M)?(?:g|t)?CO[2\u2082])")
_OF_TRAINING = re.compile("train|carbon|emission|footprint|environmental impact", re.I)


@dataclass(frozen=True, slots=True)
class Compute:
    """What is known of the operations of a run."""

    tokens: Claim
    six_n_d: float
    exact: float | None
    """With attention, from the shapes, where these are known."""
    doubt: str = ""
    """Why the tokens may not be this run's, where the text has several figures of them."""
    shapes: bool = False
    """Whether the parameters are those of the configuration, and not the card's word."""


def rows(subject: Subject, compute: Compute | None) -> Iterator[Row]:
    """The thresholds; operations, devices times duration, and energy, where they are stated."""
    stated = list(islice(stated_operations(subject), MOST))
    if stated:
        yield _agree(stated, compute)
    yield _threshold(stated, compute)
    yield from _devices(subject)
    yield from _energy(subject)


def stated_operations(subject: Subject) -> Iterator[Claim]:
    """Numbers of training's operations in prose, in order."""
    for document in subject.documents:
        for sentence in document.sentences:
            for match in _POWER.finditer(sentence.text) if re.search("flop|operations", sentence.text, re.I) else ():
                power = (match["power"] or match["exponent"]).translate(_RAISED)
                value = float(match["number"].replace(",", "")) * 10.0 ** int(power)
                if value >= 1e12:  # fewer are of a layer or a token
                    yield Claim("operations", value, match[0], 0.0, document.at(sentence.line_at(match.start())))


def _agree(stated: list[Claim], compute: Compute | None) -> Row:
    places = tuple(each.evidence for each in stated[:4])
    if compute is None or compute.doubt:
        why = compute.doubt if compute else "tokens or parameters to compute it from are not"
        return ask.COST_OPERATIONS.unknown(Grade.CLAIMED, f"“{stated[0].text}” is stated; {why}", *places)
    computed = sorted({compute.six_n_d, compute.exact or compute.six_n_d})
    shown = " to ".join(f"{value:.2e}" for value in computed)
    places += (compute.tokens.evidence,)
    low, high = CONVENTIONS[0] * computed[0], CONVENTIONS[1] * computed[-1]
    fine = next((each for each in stated if low <= each.value <= high), None)
    if fine is None:
        reason = f"“{stated[0].text}” is not what tokens and parameters give: {shown}"
        return ask.COST_OPERATIONS.no(Grade.CLAIMED, reason, *places)
    return ask.COST_OPERATIONS.yes(Grade.CHECKED, f"“{fine.text}” agrees with {shown}", *places)


def _threshold(stated: list[Claim], compute: Compute | None) -> Row:
    """Two thresholds of the AI Act; both counts must lie on one side of the higher.

    The most tokens that are stated are taken, so a doubt about them speaks against “no” alone.
    """
    values, places = [each.value for each in stated], [each.evidence for each in stated[:2]]
    if compute is not None:
        values, places = [compute.six_n_d, compute.exact or compute.six_n_d], [compute.tokens.evidence]
    if not values:
        return ask.COST_THRESHOLD.unknown(Grade.ABSENT, "neither stated nor to be computed")
    doubt = compute.doubt if compute else ""
    most = max(values)
    where = {
        "below 1e23": "under 10^23, below which a model is not taken for a general-purpose one",
        "1e23 or more": "from 10^23 on a model is taken for a general-purpose one",
        "1e25 or more": "from 10^25 on a systemic risk is presumed (AI Act, article 51)",
    }[compute_class(most)]
    answer: Answer = "no" if not doubt and min(values) >= SYSTEMIC else "yes" if most < SYSTEMIC else "unknown"
    grade = Grade.CHECKED if compute and compute.shapes and not doubt else Grade.CLAIMED
    reason = f"{most:.2e}: {where}{doubt and f'; {doubt}'}"
    return ask.COST_THRESHOLD.answer(answer, grade, reason, *places, facts=(ComputeFact(most, None),))


def _devices(subject: Subject) -> Iterator[Row]:
    """Devices times duration, in the sentences that state both and the hours."""
    compared = ((product(claim), claim) for claim in dict.fromkeys(subject.stated("gpu_hours")[:MOST]))
    found = [(*verdict, claim.evidence) for verdict, claim in compared if verdict is not None]
    if chosen := [each for each in found if not each[0]] or found:
        fine, reason = chosen[0][0], "; ".join(text for _, text, _ in chosen[:4])
        grade = Grade.CHECKED if fine else Grade.CLAIMED
        yield ask.COST_DEVICES.answer("yes" if fine else "no", grade, reason, *(place for _, _, place in chosen[:8]))


def product(hours: Claim) -> tuple[bool, str] | None:
    """Whether the devices of a sentence times its duration are its device-hours; None unless it has one of each."""
    if hours.about == "several" or _NO_PRODUCT.search(hours.evidence.quote):
        return None
    clusters, times = (list(islice(each.finditer(hours.evidence.quote), 9)) for each in (_CLUSTER, _DURATION))
    if len(clusters) != 1 or len(times) != 1 or hours.evidence.quote.endswith("…"):  # more may stand behind
        return None
    count = read_quantity(clusters[0]["left"], None)[0] * read_quantity(clusters[0]["right"] or "1", None)[0]
    time, slack = (count * _HOURS[times[0]["unit"].lower()] * each for each in read_quantity(times[0]["number"], None))
    text = f"{clusters[0][0]} for {times[0][0]} are {time:,.0f} device-hours; stated: {hours.text}"
    return abs(time - hours.value) <= slack + hours.tolerance, text


def _energy(subject: Subject) -> Iterator[Row]:
    """Energy and emissions that paragraphs and tables about training state. They are shown, and not checked."""
    found: dict[str, Evidence] = {}
    for document in subject.documents:
        said = [(each.text, each.line, each.headings) for each in document.blocks]
        said += [(cell.text, cell.line, (*document.headings[cell.line - 1], *cell.header)) for cell in document.cells]
        for text, line, headings in said:
            if (match := _ENERGY.search(text)) and _OF_TRAINING.search(" ".join((*headings, text))):
                found.setdefault(match[0], document.at(line, text))
    if found:
        yield ask.COST_ENERGY.yes(Grade.CLAIMED, f"stated: {', '.join(list(found)[:4])}", *list(found.values())[:4])
