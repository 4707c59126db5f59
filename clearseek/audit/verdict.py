"""The answer of an audit: one sentence and six lines, which every form of it begins with.

The sentence says two things: what one gets and under which terms, and whether that is open source. Open source asks for
three parts under open licences: weights, training data, training code. A part that the audit did not find is missing; a
part of which it could not tell is said to be undecided, and never held against the release. Everything comes from rows'
answers, grades, evidence and facts. A row's reason is shown where it says what could not be told, and is never read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Answer, Audit, Grade, Row
from clearseek.audit.facts import ComputeFact, LicenceFact, MemoryFact, RestrictionFact
from clearseek.licences.table import lookup
from clearseek.licences.words import shorten
from clearseek.reading.evidence import amount
from clearseek.reading.repositories import read_address, written

RESTRICTIONS: Final = {
    "non_commercial": "no commercial use",
    "geo_exclusion": "leaves countries out",
    "user_cap": "caps the number of users",
    "field_of_use": "rules out some uses",
    "no_compete": "not for improving other models",
    "output_restriction": "limits the use of its output",
    "remote_restriction": "its maker may restrict the use later",
    "changed": "words were added to a known licence",
}
"""What a licence takes back, in words; the worst first."""
COMPARISONS: Final = (
    "files.signature", "weights.format", "weights.tensors", "weights.dtype", "weights.trajectory", "parameters.total",
    "parameters.activated", "parameters.mtp", "parameters.stored", "context.length", "tokenizer.vocabulary",
    "tokenizer.special", "licence.agreement", "lineage.weights", "claims.consistent", "cost.compute",
    "cost.operations", "cost.devices", "cost.price",
)  # fmt: skip
"""Rows that compare what a release says with what else it says or holds: a “no” among them is a contradiction."""
_NO_REFUTATION: Final = ("context.length", "files.signature")
"""Rows whose “partly” tells of two lengths, neither of which is wrong, or of files beside the signed ones; other rows
say with it that some figures are wrong."""
_PARTS: Final = {"weights": ask.WEIGHTS_FINAL, "data": ask.DATA_TRAINING, "training code": ask.CODE_TRAINING}
"""What makes a model open source."""
_LICENCES: Final = {"weights": ask.LICENCE_WEIGHTS, "data": ask.LICENCE_DATA, "training code": ask.LICENCE_CODE}
_SIDES: Final = (
    (1e25, "{} 10^25, from which on the EU's AI Act presumes a systemic risk"),
    (1e23, "above 10^23 (a general-purpose model in the EU's AI Act), below 10^25 (systemic risk presumed)"),
    (0, "below 10^23, from which on the EU's AI Act sees a general-purpose model"),
)
"""Operations of training -> where they lie between the thresholds of the AI Act."""
_LONGEST: Final = 160
"""Characters of a quotation, or of a finding."""
_CLAUSE: Final = 200
"""Characters of a clause, which tells only whole; a second one is shown if both fit."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the answer."""

    label: str
    text: str
    rows: tuple[str, ...]
    """Ids of the rows that it tells."""
    look: Answer | None = None
    """Answer whose sign and colour it is shown with, if any."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an audit found, for somebody who reads no more."""

    model: str
    """Name of the model that the audit is about."""
    choice: str
    """Which model was taken and how to choose another; empty where only one could be meant."""
    sentence: str
    """The answer in one sentence, without the name."""
    licence: str
    """The licence of the weights, whether it is open, and its worst clause."""
    lines: tuple[Line, ...]
    """Weights, data, training code, report, in practice, contradictions."""

    def as_json(self) -> dict[str, Any]:
        """The verdict as JSON values."""
        lines = {each.label.replace(" ", "_"): {"text": each.text, "rows": list(each.rows)} for each in self.lines}
        choice = {"choice": self.choice} if self.choice else {}
        return {"model": self.model, "sentence": self.sentence, **choice, "licence": self.licence, **lines}


def verdict(audit: Audit) -> Verdict:
    """The verdict over an audit's rows."""
    name, choice = str(audit.facts.get("name", audit.subject)), ""
    if others := audit.facts.get("siblings"):
        origin = f", by {audit.facts['name_from']}" if audit.facts.get("name_from") else ""
        choice = f"taken for {name}{origin}; it could also be {_some(map(str, others))}: choose with --name"
    licence = _licence(audit)
    plain = (("data", ask.DATA_TRAINING), ("training code", ask.CODE_TRAINING), ("report", ask.DOCUMENTS_REPORT))
    lines = (
        _weights(audit, licence),
        *(Line(label, _where(row := audit.row(each)), (row.id,), row.answer) for label, each in plain),
        _practice(audit),
        _contradictions(audit),
    )
    return Verdict(name, choice, _sentence(audit), licence, lines)


def _sentence(audit: Audit) -> str:
    """What one gets and under which terms, then whether it is open source."""
    found = {name: audit.row(question).answer for name, question in _PARTS.items()}
    if set(found.values()) == {"no"}:
        return f"nothing that makes a model open source was found here: no {', no '.join(found)}"
    weights, terms = found.pop("weights"), _terms(audit)
    if weights == "no":
        others = [name for name, answer in found.items() if answer in ("yes", "partly")]
        terms = f"{' and '.join(others) or 'a release'} without weights"
    elif weights not in ("yes", "partly"):
        terms = "whether its weights are published could not be told"
    else:
        if weights == "partly":
            terms = f"only a part of the {terms.removeprefix('open ')}"
        if audit.row(ask.BARRIERS_ACCESS).answer == "no":
            terms = terms.removeprefix("open ").replace("weights", "weights behind a gate,", 1)
    return f"{terms}; {_openness(audit)}"


def _terms(audit: Audit) -> str:
    """The weights with their terms."""
    answer, names, limits = audit.row(ask.LICENCE_WEIGHTS).answer, _names(audit), _restrictions(audit)
    if answer == "yes":
        differ = " (card and licence do not agree)" * (audit.row(ask.LICENCE_AGREEMENT).answer == "no")
        return f"open weights under {names or 'an open licence'}{differ}"
    if answer == "no" and limits:
        return f"open weights under a restricted licence ({', '.join(limits)})"
    if answer == "partly":
        return f"weights under a licence that is open in part ({names})"
    if answer == "no":
        return f"weights under a licence that is not open ({names})" if names else "weights without a licence here"
    return f"weights whose licence is not stated, or not known here{f' ({names})' if names else ''}"


def _openness(audit: Audit) -> str:
    """Whether it is open source: what is missing, or else what is undecided."""
    missing, closed, partly, undecided, unseen = (list[str]() for _ in range(5))
    for name, question in _PARTS.items():
        row, terms = audit.row(question), audit.row(_LICENCES[name])
        if row.answer in ("unknown", "not applicable"):
            undecided.append(name)
            continue
        if row.answer == "no":
            missing.append(f"no {name}")
            continue
        partly += [f"only a part of the {name}"] * (row.answer == "partly")
        if row.grade < Grade.PRESENT:
            unseen.append(name)
            if name != "weights":  # a licence here is not that of what lies elsewhere
                continue
        if terms.answer in ("no", "partly") and terms.grade > Grade.ABSENT:
            closed.append(name)
        elif terms.answer not in ("yes", *["not applicable"] * (name != "weights")):
            undecided.append(f"the licence of the {name}")
    if missing or closed:  # the licence of the weights was told before, and is repeated only if nothing else is missing
        told = [each for each in closed if each != "weights"] if missing or len(closed) > 1 else closed
        reasons = (*missing, *(f"no open licence for the {each}" for each in told), *partly)
        return f"not open source: {', '.join(reasons)}"
    if undecided:
        return f"whether it is open source could not be told: {' and '.join(undecided)}"
    if partly:
        return f"open source in part: {', '.join(partly)}"
    if unseen:
        return f"open source as far as its links hold: {', '.join(unseen)} linked and not read"
    return "open source: weights, data and training code are here under open licences"


def _names(audit: Audit) -> str:
    """The licences of the weights by name: SPDX's id, or the title where SPDX has none."""
    names: list[str] = []
    for fact in audit.facts_of(ask.LICENCE_WEIGHTS, LicenceFact):
        known = lookup(fact.name) if fact.spdx_id is None else None
        names.append(known.name if known is not None else fact.name.removeprefix("LicenseRef-"))
    return " and ".join(dict.fromkeys(names))


def _restrictions(audit: Audit) -> dict[str, str]:
    """Kind of restriction in words -> its clause, or an empty text; the worst kind first."""
    found: dict[str, str] = {}
    if audit.row(ask.LICENCE_WEIGHTS).answer != "yes":
        for fact in audit.facts_of(ask.LICENCE_WEIGHTS, RestrictionFact):
            found[fact.flag] = found.get(fact.flag) or fact.quote
    places = audit.row(ask.BARRIERS_GEOGRAPHY)
    if places.answer == "no":
        found.setdefault("geo_exclusion", places.evidence[0].quote if places.evidence else "")
    return {words: found[flag] for flag, words in RESTRICTIONS.items() if flag in found}


def _licence(audit: Audit) -> str:
    """The licence of the weights: its name, whether it is open, how that is known, and its worst clauses."""
    row, names, limits = audit.row(ask.LICENCE_WEIGHTS), _names(audit), _restrictions(audit)
    files = _some(fact.file for fact in row.facts_of(LicenceFact) if fact.file)
    named = f"{names} ({files or 'by name; its text is not here'})" if names else ""
    if row.answer == "yes":
        return f"{named or 'not named'}, open"
    if row.answer != "unknown" and row.grade == Grade.ABSENT and not names:
        return "none found"
    told = {"no": "not open", "partly": "open in part"}.get(row.answer, f"undecided: {_told(row)}")
    quotes = {words: shorten(quote, _CLAUSE).rstrip(".,;:") for words, quote in limits.items() if quote}
    worst = [f"{words}: “{re.sub(r' [^ ]{0,30}…$', ' …', quote)}”" for words, quote in quotes.items()]  # cut at a word
    shown = "; ".join(worst[: 2 if len("".join(worst[:2])) <= _CLAUSE else 1]) or ", ".join(limits)
    return f"{f'{named}, ' if named else ''}{told}{f': {shown}' if shown else ''}"


def _weights(audit: Audit, licence: str) -> Line:
    """Where the weights are, how large, and what one may do with them."""
    row, memory = audit.row(ask.WEIGHTS_FINAL), _memory(audit)
    count = (audit.facts.get("parameters") or audit.facts.get("counted") or {}).get("total")
    sizes = [f"{count / 1e9:,.2f} billion parameters"] if count else []
    sizes += [_bytes(memory.bytes)] if memory is not None else []
    size = f"{'' if row.answer == 'yes' or not sizes else 'by its configuration '}{', '.join(sizes)}"
    gated = audit.row(ask.BARRIERS_ACCESS).answer == "no"
    gate = "behind a gate: one must ask or agree first" if gated else ""
    parts = (_where(row), gate, size, f"licence: {licence}")
    rows = (ask.WEIGHTS_FINAL.id, ask.BARRIERS_ACCESS.id, ask.LICENCE_WEIGHTS.id)
    return Line("weights", "; ".join(filter(None, parts)), rows, row.answer)


def _where(row: Row) -> str:
    """Whether a thing is published, and where it can be seen, by answer, grade and evidence."""
    if row.answer == "unknown":
        return f"could not be told: {_told(row)}"
    if row.answer == "not applicable":
        return _told(row)
    quotes = [shorten(_address(each.quote), _LONGEST) for each in row.evidence if each.quote]
    if row.answer == "no":
        described = f"; described only, in {row.evidence[0].file}: “{quotes[0]}”" if quotes else ""
        return f"none found{described}" if row.grade == Grade.ABSENT else f"none: {_told(row)}"
    files = [each.file for each in row.evidence]
    what = {
        Grade.ABSENT: "published",
        Grade.CLAIMED: "claimed, without a place to get it",
        Grade.LINKED: f"linked and not read: {_some([each for each in quotes if '://' in each] or quotes or files)}",
    }.get(row.grade, f"here: {_some(files)}")
    return f"in part: {what}; {_told(row)}" if row.answer == "partly" else what


def _address(quote: str) -> str:
    """The repository that a line of a program names, or that the address of one of its pages leads into."""
    lines = [] if " " not in quote and "://" not in quote else list(written(quote))
    if "://" not in quote.split(" ")[0]:
        return next((f"{owner}/{name}" for kind, owner, name in lines if kind == "model"), quote)
    page = re.match(r"(\S+?)/(?:tree|blob|resolve)/", quote)
    return page[1] if page and (read_address(quote) or ("",))[0] == "model" else quote


def _told(row: Row) -> str:
    """A row's reason, for people."""
    return shorten(row.reason, _LONGEST)


def _practice(audit: Audit) -> Line:
    """What it takes to run the model, and where its training lies between the thresholds of the AI Act."""
    memory, text = _memory(audit), f"memory could not be told: {_told(audit.row(ask.BARRIERS_HARDWARE))}"
    if memory is not None:
        devices = "one GPU of 80 GB holds" if memory.accelerators <= 1 else f"{memory.accelerators} GPUs of 80 GB hold"
        text = f"{devices} the {_bytes(memory.bytes)} of weights"
    total = next((each.operations for each in audit.facts_of(ask.COST_THRESHOLD, ComputeFact)), None)
    trained = "how many operations training took is not stated"
    if total is not None:
        sure = "above" if audit.row(ask.COST_THRESHOLD).answer == "no" else "perhaps above"
        side = next(words for least, words in _SIDES if total >= least).format(sure)
        mantissa, _, power = f"{total:.1e}".partition("e+")
        trained = f"training took about {mantissa} x 10^{int(power)} operations, {side}"
    return Line("in practice", f"{text}; {trained}", (ask.BARRIERS_HARDWARE.id, ask.COST_THRESHOLD.id))


def _contradictions(audit: Audit) -> Line:
    """The rows that refute what the release says."""
    compared = [row for row in audit if row.id in COMPARISONS and row.answer in ("yes", "partly", "no")]
    wrong = [row for row in compared if row.answer == "no" or (row.answer == "partly" and row.id not in _NO_REFUTATION)]
    owed = audit.row(ask.LICENCE_UPSTREAM)
    undone = (owed,) if owed.answer in ("no", "partly") else ()
    ids = tuple(row.id for row in (*wrong, *undone))
    told = [
        *map(_told, wrong[:2]),
        *[f"and {len(wrong) - 2} more: {', '.join(ids[2 : len(wrong)])}"] * (len(wrong) > 2),
    ]
    if not wrong:
        told = [f"none in {amount(len(compared), 'comparison')}"] if compared else []
    told += [f"owed to a base's licence and not done: {_told(row)}" for row in undone]
    look: Answer | None = "no" if wrong else "partly" if undone else "yes" if compared else None
    return Line("contradictions", "; ".join(told) or "nothing here could be compared with anything else", ids, look)


def _memory(audit: Audit) -> MemoryFact | None:
    return next(iter(audit.facts_of(ask.BARRIERS_HARDWARE, MemoryFact)), None)


def _some(names: Iterable[str], most: int = 3) -> str:
    """The first of some names, and how many more there are."""
    kept = list(dict.fromkeys(shorten(name, 120) for name in names))
    more = f" and {len(kept) - most} more" if len(kept) > most else ""
    return ", ".join(kept[:most]) + more


def _bytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
