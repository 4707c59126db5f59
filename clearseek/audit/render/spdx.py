"""An audit as SPDX 3.0.1 JSON-LD: the model as an AI package, its data as a dataset package, its files, and every row
as an annotation.

The AI profile demands a time of release. Only the hub knows one, so only what was read there claims the profile.
Source: SPDX 3.0.1, Core, Software, AI and Dataset profiles (spdx.github.io/spdx-spec/v3.0.1).
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

import clearseek
from clearseek.audit import questions as ask
from clearseek.audit.checks.data_sets import is_data
from clearseek.audit.evidence import Audit
from clearseek.audit.facts import LicenceFact
from clearseek.audit.render.exports import is_declared, package_url, packages

CONTEXT: Final = "https://spdx.org/rdf/3.0.1/spdx-context.jsonld"
_CREATION: Final = "_:creation"


def as_spdx(audit: Audit, findings: bool = True) -> dict[str, Any]:
    """The document, with the rows if `findings`.

    Its one time stamp is ``SOURCE_DATE_EPOCH`` where that is set, and now otherwise.
    """
    base = f"urn:uuid:{uuid5(NAMESPACE_URL, audit.subject + ''.join(audit.files.values()))}"
    elements = _Elements(base)
    elements.add("Organization", "author", name="users of ClearSeek")
    elements.add("Tool", "tool", name=f"clearseek audit {clearseek.__version__}")
    model = _model(elements, audit)
    data = _data(elements, audit)
    files = {
        path: elements.add("software_File", f"file-{number}", name=path,
                           verifiedUsing=[{"type": "Hash", "algorithm": "sha256", "hashValue": digest}],
                           software_primaryPurpose="data" if is_data(path) else "file")
        for number, (path, digest) in enumerate(audit.files.items(), 1)
    }  # fmt: skip
    elements.relate("contains", model, [id for path, id in files.items() if not is_data(path)])
    if data:
        elements.relate("contains", data, [id for path, id in files.items() if is_data(path)])
        elements.relate("trainedOn", model, [data])
    for question, what in ((ask.LICENCE_WEIGHTS, model), (ask.LICENCE_DATA, data)):
        if what and (found := audit.facts_of(question, LicenceFact)):
            licence = elements.add("simplelicensing_LicenseExpression", f"licence-{question.id.partition('.')[2]}",
                                   simplelicensing_licenseExpression=_expression(found))  # fmt: skip
            kind = "hasDeclaredLicense" if is_declared(audit, question) else "hasConcludedLicense"
            elements.relate(kind, what, [licence])
    used = [
        elements.add("software_Package", f"package-{package}", name=package, software_packageVersion=version,
                     software_packageUrl=package_url(package, version))
        for package, version in packages(audit).items()
    ]  # fmt: skip
    elements.relate("usesTool", model, used)
    for row in audit if findings else ():
        text = f"{row.id}: {row.answer} ({row.grade.label}). {row.title}. {row.reason}"
        elements.add("Annotation", f"row-{row.id}", annotationType="review", subject=model, statement=text)
    profiles = ["core", "software", "simpleLicensing"] + (["ai"] if audit.facts.get("released") else [])
    document = {"type": "SpdxDocument", "spdxId": f"{base}#document", "creationInfo": _CREATION,
                "name": f"Audit of {audit.facts['name']}", "profileConformance": profiles,
                "rootElement": [model], "element": [each["spdxId"] for each in elements.all]}  # fmt: skip
    creation = {"type": "CreationInfo", "@id": _CREATION, "specVersion": "3.0.1", "created": _now(),
                "createdBy": [f"{base}#author"], "createdUsing": [f"{base}#tool"]}  # fmt: skip
    return {"@context": CONTEXT, "@graph": [creation, document, *elements.all]}


class _Elements:
    """The elements of a document, in the order in which they were added."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.all: list[dict[str, Any]] = []

    def add(self, kind: str, fragment: str, /, **properties: Any) -> str:
        """Add one. Returns its id."""
        id = f"{self.base}#{fragment}"
        self.all.append({"type": kind, "spdxId": id, "creationInfo": _CREATION, **properties})
        return id

    def relate(self, kind: str, source: str, targets: list[str]) -> None:
        """Add a relationship; none where there is nothing to relate to."""
        if targets:
            name = f"relationship-{sum(each['type'] == 'Relationship' for each in self.all) + 1}"
            self.add("Relationship", name, relationshipType=kind, **{"from": source}, to=targets)


def _model(elements: _Elements, audit: Audit) -> str:
    """The AI package. What nobody knows is left out, or said to be unknown where the format has a word for it."""
    name, owner = str(audit.facts["name"]), audit.subject.rpartition("/")[0] if audit.facts.get("revision") else ""
    properties: dict[str, Any] = {
        "name": name,
        "software_packageVersion": str(audit.facts.get("revision", "")) or "unversioned",
        "software_primaryPurpose": "model",
        "ai_autonomyType": "noAssertion",
        "ai_useSensitivePersonalInformation": "noAssertion",
    }
    if owner:
        place = f"https://huggingface.co/{audit.subject.partition('@')[0]}/tree/{audit.facts['revision']}"
        properties["software_downloadLocation"] = place
        properties["suppliedBy"] = elements.add("Organization", "supplier", name=owner)
    if released := audit.facts.get("released"):
        properties["releaseTime"] = released
    if counts := audit.facts.get("parameters"):
        properties["ai_typeOfModel"] = ["transformer", "mixture of experts"]
        properties["ai_hyperparameter"] = [
            {"type": "DictionaryEntry", "key": f"parameters.{key}", "value": str(value)}
            for key, value in counts.items()
        ]  # fmt: skip
    told = [row.reason for each in (ask.DATA_TRAINING, ask.COST_COMPUTE) if (row := audit.get(each)) and row.claimed]
    if told:
        properties["ai_informationAboutTraining"] = "; ".join(told)
    return elements.add("ai_AIPackage", "model", **properties)


def _data(elements: _Elements, audit: Audit) -> str:
    """The dataset package; empty where no training data are here or linked."""
    row = audit.get(ask.DATA_TRAINING)
    if row is None or not row.claimed:
        return ""
    properties: dict[str, Any] = {"name": f"Training data of {audit.facts['name']}", "software_primaryPurpose": "data"}
    links = [place.quote for place in row.evidence if place.quote.startswith("https://")]
    if links:
        properties["software_downloadLocation"] = links[0]
    return elements.add("dataset_DatasetPackage", "data", dataset_datasetType=["text"],
                        dataset_hasSensitivePersonalInformation="noAssertion", **properties)  # fmt: skip


def _expression(found: tuple[LicenceFact, ...]) -> str:
    """The licences as an SPDX expression; what is not on SPDX's list is a LicenseRef of its name."""
    parts = [each.spdx_id or _reference(each.name) for each in found]
    return parts[0] if len(parts) == 1 else " AND ".join(f"({each})" if " " in each else each for each in parts)


def _reference(name: str) -> str:
    spelt = name.removeprefix("LicenseRef-").replace("+", "-plus-")
    bare = re.sub(r"[^A-Za-z0-9.]+", "-", spelt).strip("-.")
    return f"LicenseRef-{bare or 'unnamed'}"


def _now() -> str:
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    moment = datetime.fromtimestamp(int(epoch), UTC) if epoch.isdigit() else datetime.now(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
