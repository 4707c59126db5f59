"""What the frameworks of openness make of the rows: the Model Openness Framework, OSI's definition, the European index,
article 53 of the AI Act, and the plain question: weights, documents, data, code?

A view judges nothing anew. Each of its entries names the rows it rests on and is answered twice: *as claimed*, if the
publisher's word counts, and *as proven*, if only bytes do. The difference is what openness on paper is worth.
Sources: MOF 1.0 (arXiv 2403.13784); OSAID 1.0; osai-index.eu; Regulation (EU) 2024/1689, articles 51 and 53, annex XI.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from clearseek.audit.checks.content_summary import FIELDS, Field
from clearseek.audit.evidence import Answer, Audit, Grade, Row


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
    entries: tuple[Entry, ...]
    claimed: str
    """The framework's result if the publisher's word counts."""
    proven: str
    """Its result if only bytes do."""

    def as_json(self) -> dict[str, Any]:
        """The view as JSON values."""
        return {
            "id": self.id,
            "name": self.name,
            "claimed": self.claimed,
            "proven": self.proven,
            "entries": [
                {"name": each.name, "claimed": each.claimed, "proven": each.proven, "rows": list(each.rows)}
                for each in self.entries
            ],
        }


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


def entry(audit: Audit, name: str, *ids: str, one: bool = False) -> Entry:
    """All of the rows must hold, or with `one` any of them."""
    pick = max if one else min

    def over(proven: bool) -> Answer:
        return pick((_answer(audit.get(id), proven) for id in ids), key=_ORDER.index)

    return Entry(name, over(False), over(True), ids)


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
    found = entry(audit, name, "weights.final")
    gate = audit.get("barriers.access")
    if gate is None or gate.answer != "no" or found.claimed != "yes":
        return found
    proven: Answer = "partly" if found.proven == "yes" else found.proven
    return Entry(found.name, "partly", proven, (*found.rows, gate.id))


def plain(audit: Audit) -> View:
    """The question as people ask it: what is open?"""
    entries = (
        _weights(audit),
        entry(audit, "technical documents", "documents.report", "documents.model_card", one=True),
        entry(audit, "complete training data", "data.training"),
        entry(audit, "full code", "code.complete"),
    )
    claimed, proven = (sum(getattr(each, way) == "yes" for each in entries) for way in ("claimed", "proven"))
    return View("plain", "What is published", entries, f"{claimed} of 4", f"{proven} of 4")


MOF: Final[tuple[tuple[str, tuple[tuple[str, tuple[str, ...]], ...]], ...]] = (
    (
        "III Open Model",
        (
            ("Model architecture", ("code.architecture", "licence.code")),
            ("Model parameters (Final)", ("weights.final", "licence.weights")),
            ("Model card", ("documents.model_card", "licence.documents")),
            ("Data card", ("documents.data_card", "licence.documents")),
            ("Technical report", ("documents.report", "licence.documents")),
            ("Evaluation results", ("documents.evaluation", "licence.documents")),
        ),
    ),
    (
        "II Open Tooling",
        (
            ("Training code", ("code.training", "licence.code")),
            ("Inference code", ("code.inference", "licence.code")),
            ("Evaluation code", ("code.evaluation", "licence.code")),
            ("Evaluation data", ("data.evaluation",)),
        ),
    ),
    (
        "I Open Science",
        (
            ("Research paper", ("documents.report", "licence.documents")),
            ("Datasets", ("data.training",)),
            ("Data preprocessing code", ("code.data", "licence.code")),
            ("Model parameters (Intermediate)", ("weights.intermediate", "licence.weights")),
        ),
    ),
)
"""Classes of the Model Openness Framework, each with its components and the rows they rest on."""


def _component(audit: Audit, name: str, ids: tuple[str, ...]) -> Entry:
    """A component of the framework. A report elsewhere does not take this repository's licence: its own is unknown."""
    report = audit.get("documents.report")
    if "documents.report" not in ids or report is None or report.grade >= Grade.PRESENT:
        return entry(audit, name, *ids)
    found = entry(audit, name, "documents.report")
    claimed, proven = (min(each, "unknown", key=_ORDER.index) for each in (found.claimed, found.proven))
    return Entry(name, claimed, proven, found.rows)


def framework(audit: Audit) -> View:
    """The Model Openness Framework: the highest class all of whose components, and those below, are there and open."""
    entries: list[Entry] = []
    reached = {"claimed": "", "proven": ""}
    whole = {"claimed": True, "proven": True}
    for label, components in MOF:
        found = [_component(audit, f"{label}: {name}", ids) for name, ids in components]
        entries += found
        for way in reached:
            state = _all([getattr(each, way) for each in found], f"class {label}", "none", "undecided")
            if whole[way] and (state.startswith("class") or not reached[way]):
                reached[way] = state
            whole[way] = whole[way] and state.startswith("class")
    return View("mof", "Model Openness Framework 1.0", tuple(entries), reached["claimed"], reached["proven"])


def definition(audit: Audit) -> View:
    """The Open Source AI Definition 1.0, which a system meets or does not, as far as that can be told."""
    entries = (
        entry(audit, "data information", "data.training", "documents.data_card"),
        entry(audit, "code", "code.complete", "licence.code"),
        entry(audit, "parameters", "weights.final", "licence.weights"),
    )
    claimed, proven = (
        _all([getattr(each, way) for each in entries], "met", "not met", "undecided") for way in ("claimed", "proven")
    )
    return View("osaid", "Open Source AI Definition 1.0", entries, claimed, proven)


OSAI: Final = (
    ("datasources_basemodel", ("data.training",)),
    ("datasources_endmodel", ("data.training",)),
    ("weights_basemodel", ("weights.final",)),
    ("weights_endmodel", ("weights.final",)),
    ("trainingcode", ("code.training",)),
    ("code", ("code.complete",)),
    ("hardware_architecture", ("cost.compute",)),
    ("preprint", ("documents.report",)),
    ("paper", ("documents.paper",)),
    ("modelcard", ("documents.model_card",)),
    ("datasheet", ("documents.data_card",)),
    ("licenses", ("licence.weights",)),
)
"""Dimensions of the European Open Source AI Index and the rows they rest on."""
POINTS: Final[dict[Answer, float]] = {"yes": 1.0, "partly": 0.5, "no": 0.0, "unknown": 0.0, "not applicable": 0.0}


def european(audit: Audit) -> View:
    """The European Open Source AI Index: twelve dimensions, open 1, partial 0.5, closed 0; what is unknown is told."""
    entries = tuple(_dimension(audit, name, ids) for name, ids in OSAI)
    claimed, proven = (_score([getattr(each, way) for each in entries]) for way in ("claimed", "proven"))
    return View("osai", "European Open Source AI Index", entries, claimed, proven)


def _dimension(audit: Audit, name: str, ids: tuple[str, ...]) -> Entry:
    if name.startswith("weights_"):
        return _weights(audit, name)
    return _hardware(audit, name) if ids == ("cost.compute",) else entry(audit, name, *ids)


def _hardware(audit: Audit, name: str) -> Entry:
    """What a model was trained with: told in part where hours or devices are stated, whether or not they fit."""
    found = entry(audit, name, "cost.compute")
    compute, devices = audit.get("cost.compute"), audit.get("cost.devices")
    hours = compute is not None and compute.grade >= Grade.CLAIMED and "device-hours" not in compute.reason
    if found.claimed == "yes" or not (hours or (devices is not None and devices.grade >= Grade.CLAIMED)):
        return found
    return Entry(name, "partly", "unknown", ("cost.compute", "cost.devices"))


def _score(answers: list[Answer]) -> str:
    undecided = answers.count("unknown")
    return f"{sum(POINTS[each] for each in answers):g} of {len(OSAI)}" + (f", {undecided} undecided" * bool(undecided))


ANNEX_XI: Final = (
    ("53(1)(a) architecture and number of parameters", ("parameters.total", "code.architecture")),
    ("53(1)(a) how to use and integrate it", ("documents.model_card",)),
    ("53(1)(a) training process and design choices", ("documents.report", "code.configuration")),
    ("53(1)(a) data: provenance, curation, scope", ("data.training", "documents.data_card")),
    ("53(1)(a) computational resources", ("cost.compute",)),
    ("53(1)(a) energy", ("cost.energy",)),
)
"""What annex XI asks the documentation to hold, as far as a row speaks of it. Open models are exempt from it."""


def ai_act(audit: Audit) -> View:
    """Article 53 of the AI Act: what a free and open licence exempts from, and the duties that it does not lift."""
    exempting = (
        entry(audit, "53(2) weights, architecture and usage are public", "weights.final", "documents.model_card"),
        entry(audit, "53(2) free and open licence", "licence.weights", "licence.freedom"),
    )
    risk = entry(audit, "53(2) training took less than 10^25 operations", "cost.threshold")
    policy = entry(audit, "53(1)(c) copyright policy", "documents.copyright_policy")
    summary = entry(audit, "53(1)(d) summary of training content", "documents.data_summary")
    annex = tuple(
        _hardware(audit, name) if ids == ("cost.compute",) else entry(audit, name, *ids) for name, ids in ANNEX_XI
    )
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
    return View("ai-act", "EU AI Act, article 53", entries, results[0], results[1])


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
    row = audit.get("documents.data_summary")
    filled = field.name in audit.facts.get("content_summary", {}) and row is not None and row.answer != "no"
    elsewhere = entry(audit, "", *field.elsewhere, one=True).claimed if field.elsewhere else "no"
    claimed: Answer = "yes" if filled else elsewhere
    proven: Answer = "yes" if filled and row is not None and row.grade >= Grade.PRESENT else "no"
    return Entry(f"53(1)(d) {field.name}", claimed, proven, ("documents.data_summary", *field.elsewhere))
