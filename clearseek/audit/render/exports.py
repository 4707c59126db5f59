"""The evidence in other people's forms: the Model Openness Tool's YAML, the European index's, a CycloneDX ML-BOM.

Each form has less room than the audit: it can say that a component is there and where, and not how far that was
checked. So only what the bytes prove is exported as there, and what the form has notes for says the grade. The forms:
MOT's ``schema/mof_schema.json``; the index's contribution template; CycloneDX 1.6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5

import yaml

import clearseek
from clearseek.audit import questions as ask
from clearseek.audit.evidence import Answer, Audit, Evidence, Grade, Question
from clearseek.audit.facts import LicenceFact, PackagesFact
from clearseek.audit.views import OSAI, european

COMPONENTS: Final = (
    ("Model architecture", ask.CODE_ARCHITECTURE, "code"),
    ("Data preprocessing code", ask.CODE_DATA, "code"),
    ("Training code", ask.CODE_TRAINING, "code"),
    ("Inference code", ask.CODE_INFERENCE, "code"),
    ("Evaluation code", ask.CODE_EVALUATION, "code"),
    ("Model parameters (Final)", ask.WEIGHTS_FINAL, "data"),
    ("Model parameters (Intermediate)", ask.WEIGHTS_INTERMEDIATE, "data"),
    ("Datasets", ask.DATA_TRAINING, "datasets"),
    ("Evaluation data", ask.DATA_EVALUATION, "datasets"),
    ("Model metadata", ask.CODE_CONFIGURATION, "code"),
    ("Model card", ask.DOCUMENTS_MODEL_CARD, "document"),
    ("Data card", ask.DOCUMENTS_DATA_CARD, "document"),
    ("Technical report", ask.DOCUMENTS_REPORT, "document"),
    ("Evaluation results", ask.DOCUMENTS_EVALUATION, "document"),
)
"""Components of the framework as its tool spells them, the row each rests on, and what its licence is one of."""
LICENCE_ROWS: Final = {
    "code": ask.LICENCE_CODE, "data": ask.LICENCE_WEIGHTS, "document": ask.LICENCE_DOCUMENTS,
    "datasets": ask.LICENCE_DATA,
}  # fmt: skip
"""The tool's types, its “data” being parameters; and data sets, which have licences of their own."""
_NOT_LISTED: Final = frozenset(("OpenMDW-1.1",))
"""SPDX ids that are younger than the list in CycloneDX 1.6's schema."""


def is_declared(audit: Audit, question: Question) -> bool:
    """Whether a licence is no more than the publisher's word, or something here contradicts it."""
    row = audit[question]
    return row.grade < Grade.PRESENT or row.answer == "unknown"


def packages(audit: Audit) -> dict[str, str]:
    """Package -> version of the software that the run used, where a file pins it and nothing contradicts it."""
    row = audit.get(ask.CODE_ENVIRONMENT)
    pinned = row.facts_of(PackagesFact) if row is not None and row.grade >= Grade.PRESENT else ()
    return {name: version for each in pinned for name, version in each.versions.items()}


def package_url(name: str, version: str) -> str:
    """Package URL of a package on PyPI, by the purl specification."""
    return f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(version, safe='')}"


def as_mot(audit: Audit) -> str:
    """The Model Openness Tool's YAML: the components that are here or linked, with licences and paths."""
    named = {kind: _name_and_path(audit, question) for kind, question in LICENCE_ROWS.items()}
    components: list[dict[str, str]] = []
    for name, question, kind in COMPONENTS:
        row = audit.get(question)
        if row is None or not row.claimed or row.grade < Grade.LINKED:
            continue
        entry = {"name": name, "description": row.told[:500]}
        ours = row.grade >= Grade.PRESENT or kind == "data"  # a licence here does not cover what others publish
        if named[kind][0] and ours:
            entry["license"], entry["license_path"] = named[kind]
        if row.evidence:
            entry["component_path"] = row.evidence[0].quote if row.grade == Grade.LINKED else row.evidence[0].file
        components.append(entry)
    release: dict[str, Any] = {
        "name": str(audit.facts["name"]),
        "version": str(audit.facts.get("revision", ""))[:12] or "unversioned",
        "license": {
            kind: {"name": name or None, "path": path or None}
            for kind, (name, path) in named.items()
            if kind != "datasets"
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


def _name_and_path(audit: Audit, question: Question) -> tuple[str, str]:
    """Names of the licences, and the file of the first; empty where there is none."""
    found = audit.facts_of(question, LicenceFact)
    return " AND ".join(each.name for each in found), found[0].file if found else ""


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
        given, told = _CLASSES.get(entries[name].claimed), row.told if row else "not looked at"
        content[name] = {"class": given, "link": place and _link(place), "notes": told if given else f"unknown: {told}"}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _link(place: Evidence) -> str:
    """An address, or the file's name in the release."""
    return place.quote if place.quote.startswith(("https://", "http://")) else place.file


def _parameters(audit: Audit) -> dict[str, Any]:
    """What is known of the architecture; nothing where the configuration was not understood."""
    if "parameters" not in audit.facts:
        return {}
    total = audit.facts["parameters"]["total"]
    return {"architectureFamily": "transformer", "modelArchitecture": f"mixture of experts, {total:,} parameters"}


def _licence(fact: LicenceFact, declared: bool) -> dict[str, Any]:
    """A licence by its id, a choice as an expression, and by its name what has no id that CycloneDX knows."""
    said = {"acknowledgement": "declared"} if declared else {}
    if fact.spdx_id is not None and " " in fact.spdx_id:
        return {"expression": fact.spdx_id, **said}
    known = fact.spdx_id is not None and fact.spdx_id not in _NOT_LISTED
    return {"license": {"id" if known else "name": fact.name, **said}}


def as_cyclonedx(audit: Audit, findings: bool = True) -> dict[str, Any]:
    """A CycloneDX 1.6 bill of materials: the model, its files, the packages that it was made with.

    With `findings` every row is a property of the model, with its grade.
    """
    name = str(audit.facts["name"])
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
    if found := audit.facts_of(ask.LICENCE_WEIGHTS, LicenceFact):
        model["licenses"] = [_licence(each, is_declared(audit, ask.LICENCE_WEIGHTS)) for each in found]
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
    for package, version in packages(audit).items():
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
