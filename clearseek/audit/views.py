"""What the frameworks of openness make of the rows: the Model Openness Framework, OSI's definition, the European index,
article 53 of the AI Act, and the plain question: weights, documents, data, code?

A view judges nothing anew. Each of its entries names the rows it rests on and is answered twice: *as claimed*, if the
publisher's word counts, and *as proven*, if only bytes do. The difference is what openness on paper is worth.
Sources: MOF 1.0 (arXiv 2403.13784); OSAID 1.0; osai-index.eu; Regulation (EU) 2024/1689, articles 51 and 53, annex XI.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

from clearseek.audit import questions as ask
from clearseek.audit.checks.content_summary import FIELDS, Field
from clearseek.audit.evidence import Answer, Audit, Grade, Question, Row
from clearseek.audit.facts import ComputeFact, SummaryFact


@dataclass(frozen=True, slots=True)
class Entry:
    """One requirement of a framework."""

    name: str
    claimed: Answer
    proven: Answer
    rows: tuple[str, ...]
    """Ids of the rows it rests on."""


@dataclass(frozen=True, slots=True)
class View:
    """A framework's reading."""

    id: str
    name: str
    claimed: str
    """The framework's result if the publisher's word counts."""
    proven: str
    """Its result if only bytes do."""
    entries: tuple[Entry, ...]

    def as_json(self) -> dict[str, Any]:
        """The view as JSON values."""
        return asdict(self)


_ORDER: Final[tuple[Answer, ...]] = ("no", "unknown", "partly", "yes")


def _answer(row: Row | None, proven: bool) -> Answer:
    """A row's answer at a strictness; only of a licence is nothing asked where the thing is not there."""
    if row is None:
        return "unknown"
    if row.answer == "not applicable":
        return "yes" if row.id.startswith("licence.") else "unknown"
    if row.answer in ("yes", "partly") and proven and row.grade < Grade.PRESENT:
        return "unknown"
    return row.answer


def entry(audit: Audit, name: str, *questions: Question, one: bool = False) -> Entry:
    """All of the rows must hold, or with `one` any of them."""
    pick = max if one else min

    def over(proven: bool) -> Answer:
        return pick((_answer(audit.get(each), proven) for each in questions), key=_ORDER.index)

    return Entry(name, over(False), over(True), tuple(each.id for each in questions))


def _all(answers: Iterable[Answer], met: str, not_met: str, undecided: str) -> str:
    """A verdict over requirements: only what is answered can break it."""
    given = set(answers)
    if given & {"no", "partly"}:
        return not_met
    return undecided if "unknown" in given else met


def views(audit: Audit) -> tuple[View, ...]:
    """All views of an audit."""
    return plain(audit), framework(audit), definition(audit), european(audit), ai_act(audit)


def _weights(audit: Audit, name: str = "weights") -> Entry:
    """Published weights; behind a gate they are open in part."""
    found = entry(audit, name, ask.WEIGHTS_FINAL)
    gate = audit.get(ask.BARRIERS_ACCESS)
    if gate is None or gate.answer != "no" or found.claimed != "yes":
        return found
    proven: Answer = "partly" if found.proven == "yes" else found.proven
    return Entry(found.name, "partly", proven, (*found.rows, gate.id))


def plain(audit: Audit) -> View:
    """The question as people ask it: what is open?"""
    entries = (
        _weights(audit),
        entry(audit, "technical documents", ask.DOCUMENTS_REPORT, ask.DOCUMENTS_MODEL_CARD, one=True),
        entry(audit, "complete training data", ask.DATA_TRAINING),
        entry(audit, "full code", ask.CODE_COMPLETE),
    )
    claimed, proven = (sum(getattr(each, way) == "yes" for each in entries) for way in ("claimed", "proven"))
    return View("plain", "What is published", f"{claimed} of 4", f"{proven} of 4", entries)


MOF: Final[tuple[tuple[str, tuple[tuple[str, tuple[Question, ...]], ...]], ...]] = (
    ("III Open Model", (
        ("Model architecture", (ask.CODE_ARCHITECTURE, ask.LICENCE_CODE)),
        ("Model parameters (Final)", (ask.WEIGHTS_FINAL, ask.LICENCE_WEIGHTS)),
        ("Model card", (ask.DOCUMENTS_MODEL_CARD, ask.LICENCE_DOCUMENTS)),
        ("Data card", (ask.DOCUMENTS_DATA_CARD, ask.LICENCE_DOCUMENTS)),
        ("Technical report", (ask.DOCUMENTS_REPORT, ask.LICENCE_DOCUMENTS)),
        ("Evaluation results", (ask.DOCUMENTS_EVALUATION, ask.LICENCE_DOCUMENTS)),
    )),
    ("II Open Tooling", (
        ("Training code", (ask.CODE_TRAINING, ask.LICENCE_CODE)),
        ("Inference code", (ask.CODE_INFERENCE, ask.LICENCE_CODE)),
        ("Evaluation code", (ask.CODE_EVALUATION, ask.LICENCE_CODE)),
        ("Evaluation data", (ask.DATA_EVALUATION,)),
    )),
    ("I Open Science", (
        ("Research paper", (ask.DOCUMENTS_REPORT, ask.LICENCE_DOCUMENTS)),
        ("Datasets", (ask.DATA_TRAINING,)),
        ("Data preprocessing code", (ask.CODE_DATA, ask.LICENCE_CODE)),
        ("Model parameters (Intermediate)", (ask.WEIGHTS_INTERMEDIATE, ask.LICENCE_WEIGHTS)),
    )),
)  # fmt: skip
"""Classes of the Model Openness Framework, each with its components and the questions they rest on."""


def _component(audit: Audit, name: str, questions: tuple[Question, ...]) -> Entry:
    """A component of the framework. A report elsewhere does not take this repository's licence: its own is unknown."""
    report = audit.get(ask.DOCUMENTS_REPORT)
    if ask.DOCUMENTS_REPORT not in questions or report is None or report.grade >= Grade.PRESENT:
        return entry(audit, name, *questions)
    found = entry(audit, name, ask.DOCUMENTS_REPORT)
    claimed, proven = (min(each, "unknown", key=_ORDER.index) for each in (found.claimed, found.proven))
    return Entry(name, claimed, proven, found.rows)


def framework(audit: Audit) -> View:
    """The Model Openness Framework: the highest class all of whose components, and those below, are there and open."""
    entries: list[Entry] = []
    reached = {"claimed": "", "proven": ""}
    whole = {"claimed": True, "proven": True}
    for label, components in MOF:
        found = [_component(audit, f"{label}: {name}", questions) for name, questions in components]
        entries += found
        for way in reached:
            state = _all([getattr(each, way) for each in found], f"class {label}", "none", "undecided")
            if whole[way] and (state.startswith("class") or not reached[way]):
                reached[way] = state
            whole[way] = whole[way] and state.startswith("class")
    return View("mof", "Model Openness Framework 1.0", reached["claimed"], reached["proven"], tuple(entries))


def definition(audit: Audit) -> View:
    """The Open Source AI Definition 1.0, which a system meets or does not, as far as that can be told."""
    entries = (
        entry(audit, "data information", ask.DATA_TRAINING, ask.DOCUMENTS_DATA_CARD),
        entry(audit, "code", ask.CODE_COMPLETE, ask.LICENCE_CODE),
        entry(audit, "parameters", ask.WEIGHTS_FINAL, ask.LICENCE_WEIGHTS),
    )
    claimed, proven = (
        _all([getattr(each, way) for each in entries], "met", "not met", "undecided") for way in ("claimed", "proven")
    )
    return View("osaid", "Open Source AI Definition 1.0", claimed, proven, entries)


OSAI: Final = (
    ("datasources_basemodel", (ask.DATA_TRAINING,)),
    ("datasources_endmodel", (ask.DATA_TRAINING,)),
    ("weights_basemodel", (ask.WEIGHTS_FINAL,)),
    ("weights_endmodel", (ask.WEIGHTS_FINAL,)),
    ("trainingcode", (ask.CODE_TRAINING,)),
    ("code", (ask.CODE_COMPLETE,)),
    ("hardware_architecture", (ask.COST_COMPUTE,)),
    ("preprint", (ask.DOCUMENTS_REPORT,)),
    ("paper", (ask.DOCUMENTS_PAPER,)),
    ("modelcard", (ask.DOCUMENTS_MODEL_CARD,)),
    ("datasheet", (ask.DOCUMENTS_DATA_CARD,)),
    ("licenses", (ask.LICENCE_WEIGHTS,)),
)
"""Dimensions of the European Open Source AI Index and the questions they rest on."""
POINTS: Final[dict[Answer, float]] = {"yes": 1.0, "partly": 0.5, "no": 0.0, "unknown": 0.0, "not applicable": 0.0}


def european(audit: Audit) -> View:
    """The European Open Source AI Index: twelve dimensions, open 1, partial 0.5, closed 0; what is unknown is told."""
    entries = tuple(_dimension(audit, name, questions) for name, questions in OSAI)
    claimed, proven = (_score([getattr(each, way) for each in entries]) for way in ("claimed", "proven"))
    return View("osai", "European Open Source AI Index", claimed, proven, entries)


def _dimension(audit: Audit, name: str, questions: tuple[Question, ...]) -> Entry:
    if questions == (ask.WEIGHTS_FINAL,):
        return _weights(audit, name)
    return _hardware(audit, name) if questions == (ask.COST_COMPUTE,) else entry(audit, name, *questions)


def _hardware(audit: Audit, name: str) -> Entry:
    """What a model was trained with: told in part where hours or devices are stated, whether or not they fit."""
    found = entry(audit, name, ask.COST_COMPUTE)
    devices = audit.get(ask.COST_DEVICES)
    hours = any(each.hours is not None for each in audit.facts_of(ask.COST_COMPUTE, ComputeFact))
    if found.claimed == "yes" or not (hours or (devices is not None and devices.grade >= Grade.CLAIMED)):
        return found
    return Entry(name, "partly", "unknown", (ask.COST_COMPUTE.id, ask.COST_DEVICES.id))


def _score(answers: list[Answer]) -> str:
    undecided = answers.count("unknown")
    return f"{sum(POINTS[each] for each in answers):g} of {len(OSAI)}" + (f", {undecided} undecided" * bool(undecided))


ANNEX_XI: Final = (
    ("53(1)(a) architecture and number of parameters", (ask.PARAMETERS_TOTAL, ask.CODE_ARCHITECTURE)),
    ("53(1)(a) how to use and integrate it", (ask.DOCUMENTS_MODEL_CARD,)),
    ("53(1)(a) training process and design choices", (ask.DOCUMENTS_REPORT, ask.CODE_CONFIGURATION)),
    ("53(1)(a) data: provenance, curation, scope", (ask.DATA_TRAINING, ask.DOCUMENTS_DATA_CARD)),
    ("53(1)(a) computational resources", (ask.COST_COMPUTE,)),
    ("53(1)(a) energy", (ask.COST_ENERGY,)),
)
"""What annex XI asks the documentation to hold, as far as a row speaks of it. Open models are exempt from it."""


def ai_act(audit: Audit) -> View:
    """Article 53 of the AI Act: what a free and open licence exempts from, and the duties that it does not lift."""
    exempting = (
        entry(audit, "53(2) weights, architecture and usage are public", ask.WEIGHTS_FINAL, ask.DOCUMENTS_MODEL_CARD),
        entry(audit, "53(2) free and open licence", ask.LICENCE_WEIGHTS, ask.LICENCE_FREEDOM),
    )
    risk = entry(audit, "53(2) training took less than 10^25 operations", ask.COST_THRESHOLD)
    policy = entry(audit, "53(1)(c) copyright policy", ask.DOCUMENTS_COPYRIGHT_POLICY)
    summary = entry(audit, "53(1)(d) summary of training content", ask.DOCUMENTS_DATA_SUMMARY)
    annex = tuple(_dimension(audit, name, questions) for name, questions in ANNEX_XI)
    fields = tuple(_template_field(audit, field) for field in FIELDS)
    results = []
    for way in ("claimed", "proven"):
        text = _exempt([getattr(each, way) for each in exempting], getattr(risk, way))
        for what, answers in (("lacks", ("no", "partly")), ("undecided:", ("unknown",))):
            left = [each.name.split()[0] for each in (policy, summary) if getattr(each, way) in answers]
            text += f"; {what} {' and '.join(left)}" if left else ""
        filled = sum(getattr(each, way) == "yes" for each in fields)
        results.append(f"{text}; {filled} of {len(fields)} fields of the summary")
    entries = (*exempting, risk, *annex, policy, summary, *fields)
    return View("ai-act", "EU AI Act, article 53", results[0], results[1], entries)


def _exempt(answers: list[Answer], risk: Answer) -> str:
    """Article 53(2): open models are exempt, those with a systemic risk, as 10^25 operations let presume, never."""
    duties = "53(1)(a) and (b)"
    if risk == "no":
        return f"not exempt from {duties}: 10^25 operations or more"
    unless = ", unless training took 10^25 operations" if risk == "unknown" else ""
    return _all(
        answers, f"exempt from {duties}{unless}", f"not exempt from {duties}", f"undecided whether exempt from {duties}"
    )


def _template_field(audit: Audit, field: Field) -> Entry:
    """A field of the summary's template: claimed where the summary fills it or a document tells the same."""
    row = audit.get(ask.DOCUMENTS_DATA_SUMMARY)
    told = any(field.name in each.fields for each in audit.facts_of(ask.DOCUMENTS_DATA_SUMMARY, SummaryFact))
    filled = told and row is not None and row.answer != "no"
    elsewhere = entry(audit, "", *field.elsewhere, one=True).claimed if field.elsewhere else "no"
    claimed: Answer = "yes" if filled else elsewhere
    proven: Answer = "yes" if filled and row is not None and row.grade >= Grade.PRESENT else "no"
    rows = tuple(each.id for each in (ask.DOCUMENTS_DATA_SUMMARY, *field.elsewhere))
    return Entry(f"53(1)(d) {field.name}", claimed, proven, rows)
