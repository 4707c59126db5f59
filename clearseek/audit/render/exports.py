"""The evidence in other people's forms: the Model Openness Tool's YAML, the European index's, a CycloneDX ML-BOM.

Each form has less room than the audit: it can say that a component is there and where, and not how far that was
checked. So only what the bytes prove is exported as there, and what the form has notes for says the grade. The forms:
MOT's ``schema/mof_schema.json``; the index's contribution template; CycloneDX 1.6.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5

import yaml

import clearseek
from clearseek.audit.evidence import Answer, Audit, Evidence, Grade, Row
from clearseek.audit.views import OSAI, european

COMPONENTS: Final = (
    ("Model architecture", "code.architecture", "code"),
    ("Data preprocessing code", "code.data", "code"),
    ("Training code", "code.training", "code"),
    ("Inference code", "code.inference", "code"),
    ("Evaluation code", "code.evaluation", "code"),
    ("Model parameters (Final)", "weights.final", "data"),
    ("Model parameters (Intermediate)", "weights.intermediate", "data"),
    ("Datasets", "data.training", "datasets"),
    ("Evaluation data", "data.evaluation", "datasets"),
    ("Model metadata", "code.configuration", "code"),
    ("Model card", "documents.model_card", "document"),
    ("Data card", "documents.data_card", "document"),
    ("Technical report", "documents.report", "document"),
    ("Evaluation results", "documents.evaluation", "document"),
)
"""Components of the framework as its tool spells them, the row each rests on, and what its licence is one of."""
LICENCE_ROWS: Final = {
    "code": "licence.code", "data": "licence.weights", "document": "licence.documents", "datasets": "licence.data",
}  # fmt: skip
"""The tool's types, its “data” being parameters; and data sets, which have licences of their own."""


def licence_found(audit: Audit, row_id: str) -> tuple[str, str]:
    """SPDX id, or a name of our table, and file of the licence that was found, open or not; empty where none was."""
    row = audit.get(row_id)
    if row is None or row.answer not in ("yes", "no") or not row.evidence or " is " not in row.reason:
        return "", ""
    name = re.split(r"[,;:]| \(| by word", row.reason.partition(" is ")[2])[0].strip()
    return name, row.evidence[0].file if row.grade >= Grade.PRESENT else ""


def _there(row: Row | None) -> bool:
    return row is not None and row.answer in ("yes", "partly") and row.grade >= Grade.LINKED


def package_url(name: str, version: str) -> str:
    """Of a package on PyPI, by the purl specification."""
    return f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(version, safe='')}"


def as_mot(audit: Audit) -> str:
    """The Model Openness Tool's YAML: the components that are here or linked, with licences and paths."""
    licences = {kind: licence_found(audit, row) for kind, row in LICENCE_ROWS.items()}
    components: list[dict[str, str]] = []
    for name, row_id, kind in COMPONENTS:
        row = audit.get(row_id)
        if row is None or not _there(row):
            continue
        entry = {"name": name, "description": f"{row.grade.label}: {row.reason}"[:500]}
        ours = row.grade >= Grade.PRESENT or kind == "data"  # a licence here does not cover what others publish
        if licences[kind][0] and ours:
            entry["license"], entry["license_path"] = licences[kind]
        if row.evidence:
            entry["component_path"] = row.evidence[0].quote if row.grade == Grade.LINKED else row.evidence[0].file
        components.append(entry)
    release: dict[str, Any] = {
        "name": str(audit.facts["name"]),
        "version": str(audit.facts.get("revision", ""))[:12] or "unversioned",
        "license": {
            kind: {"name": licences[kind][0] or None, "path": licences[kind][1] or None}
            for kind in ("code", "data", "document")
        },
        "type": "language",
        "producer": _owner(audit) or "unknown",
        "components": components,
    }
    if "parameters" in audit.facts:
        release["architecture"] = "transformer decoder"
    if "released" in audit.facts:
        release["date"] = str(audit.facts["released"])[:10]
    framework = {"name": "Model Openness Framework", "version": "1.0", "date": "2024-12-15"}
    return yaml.safe_dump({"framework": framework, "release": release}, sort_keys=False, allow_unicode=True)


def _owner(audit: Audit) -> str:
    """Who publishes it, where it was read on a hub; a folder's place on this machine tells nothing."""
    return audit.subject.partition("/")[0] if "revision" in audit.facts else ""


_CLASSES: Final[dict[Answer, str]] = {"yes": "open", "partly": "partial", "no": "closed"}
"""What is unknown has no class: it is not closed."""


def as_european_index(audit: Audit) -> str:
    """The European index's YAML: twelve dimensions as claimed, with the grade in each note."""
    entries = {entry.name: entry for entry in european(audit).entries}
    content: dict[str, Any] = {
        "system": {
            "name": str(audit.facts["name"]),
            "link": audit.subject if _owner(audit) else None,
            "type": "text",
            "notes": "",
        },
        "org": {"name": "", "link": "", "notes": ""},
    }
    for name, ids in OSAI:
        row = audit.get(ids[0])
        place = row.evidence[0] if row and row.evidence else None
        content[name] = {
            "class": _CLASSES.get(entries[name].claimed),
            "link": _link(place) if place else None,
            "notes": _note(row, entries[name].claimed),
        }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _link(place: Evidence) -> str:
    """An address, or the file's name in the release."""
    return place.quote if place.quote.startswith(("https://", "http://")) else place.file


def _note(row: Row | None, answer: Answer) -> str:
    told = f"{row.grade.label}: {row.reason}" if row else "not looked at"
    return told if answer in _CLASSES else f"unknown: {told}"


def _parameters(audit: Audit) -> dict[str, Any]:
    """What is known of the architecture; nothing where the configuration was not understood."""
    if "parameters" not in audit.facts:
        return {}
    total = audit.facts["parameters"]["total"]
    return {"architectureFamily": "transformer", "modelArchitecture": f"mixture of experts, {total:,} parameters"}


def as_cyclonedx(audit: Audit, findings: bool = True) -> dict[str, Any]:
    """A CycloneDX 1.6 bill of materials: the model, its files, the packages that it was made with.

    With `findings` every row is a property of the model, with its grade.
    """
    name = str(audit.facts["name"])
    licence, _ = licence_found(audit, "licence.weights")
    model: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": name,
        "version": str(audit.facts.get("revision", "")) or "unversioned",
        "modelCard": {"modelParameters": _parameters(audit)},
    }
    if findings:
        model["properties"] = [
            {"name": f"clearseek:{row.id}", "value": f"{row.answer} ({row.grade.label}): {row.reason}"} for row in audit
        ]
    if licence and not licence.startswith(("LicenseRef-", "modified")):
        model["licenses"] = [{"license": {"id": licence}}]
    elif licence:
        model["licenses"] = [{"license": {"name": licence}}]
    files = audit.files
    components = [
        {
            "type": "data" if path.startswith("data/") else "file",
            "bom-ref": f"file:{path}",
            "name": path,
            "hashes": [{"alg": "SHA-256", "content": digest}],
        }
        for path, digest in files.items()
    ]
    for package, version in audit.facts.get("packages", {}).items():
        purl = package_url(package, version)
        components.append(
            {"type": "library", "bom-ref": purl, "name": package, "version": version, "purl": purl, "scope": "excluded"}
        )
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, audit.subject + ''.join(files.values()))}",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "clearseek", "version": clearseek.__version__}]},
            "component": model,
        },
        "components": components,
    }


TEXTS: Final[dict[str, Callable[[Audit], str]]] = {"mot": as_mot, "european-index": as_european_index}
