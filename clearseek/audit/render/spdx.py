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

import clearseek
from clearseek.audit import questions as ask
from clearseek.audit.checks.data_sets import is_data
from clearseek.audit.evidence import Audit
from clearseek.audit.facts import LicenceFact
from clearseek.audit.render.exports import Known

CONTEXT: Final = "https://spdx.org/rdf/3.0.1/spdx-context.jsonld"
_CREATION: Final = "_:creation"


def as_spdx(audit: Audit, findings: bool = True) -> dict[str, Any]:
    """The document, with the rows if `findings`.

    Its one time stamp is ``SOURCE_DATE_EPOCH`` where that is set, and now otherwise.
    """
    known, elements = Known(audit), _Elements(Known(audit).id)
    elements.add("Organization", "author", name="users of ClearSeek")
    elements.add("Tool", "tool", name=f"clearseek audit {clearseek.__version__}")
    model = elements.add("ai_AIPackage", "model", **_model(elements, known))
    data = elements.add("dataset_DatasetPackage", "data", **about) if (about := _data(audit)) else ""
    files: dict[bool, list[str]] = {True: [], False: []}
    for number, (path, digest) in enumerate(audit.files.items(), 1):
        purpose, held = ("data", True) if is_data(path) else ("file", False)
        files[held].append(elements.add("software_File", f"file-{number}", name=path, software_primaryPurpose=purpose,
                           verifiedUsing=[{"type": "Hash", "algorithm": "sha256", "hashValue": digest}]))  # fmt: skip
    elements.relate("contains", model, files[False])
    if data:
        elements.relate("contains", data, files[True])
        elements.relate("trainedOn", model, [data])
    for question, what in ((ask.LICENCE_WEIGHTS, model), (ask.LICENCE_DATA, data)):
        if what and (found := known.licences(question)):
            licence = elements.add("simplelicensing_LicenseExpression", f"licence-{question.id.partition('.')[2]}",
                                   simplelicensing_licenseExpression=_expression(found))  # fmt: skip
            kind = "hasDeclaredLicense" if known.is_declared(question) else "hasConcludedLicense"
            elements.relate(kind, what, [licence])
    elements.relate("usesTool", model, [
        elements.add("software_Package", f"package-{package}", name=package, software_packageVersion=version,
                     software_packageUrl=purl)
        for package, (version, purl) in known.packages.items()
    ])  # fmt: skip
    for row in audit if findings else ():
        text = f"{row.id}: {row.answer} ({row.grade.label}). {row.title}. {row.reason}"
        elements.add("Annotation", f"row-{row.id}", annotationType="review", subject=model, statement=text)
    profiles = ["core", "software", "simpleLicensing"] + (["ai"] if audit.facts.get("released") else [])
    document = {"type": "SpdxDocument", "spdxId": f"{known.id}#document", "creationInfo": _CREATION,
                "name": f"Audit of {known.name}", "profileConformance": profiles,
                "rootElement": [model], "element": [each["spdxId"] for each in elements.all]}  # fmt: skip
    creation = {"type": "CreationInfo", "@id": _CREATION, "specVersion": "3.0.1", "created": _now(),
                "createdBy": [f"{known.id}#author"], "createdUsing": [f"{known.id}#tool"]}  # fmt: skip
    return {"@context": CONTEXT, "@graph": [creation, document, *elements.all]}


class _Elements:
    """The elements of a document, in the order in which they were added."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.all: list[dict[str, Any]] = []

    def add(self, kind: str, fragment: str, /, **properties: Any) -> str:
        """Add one, without properties that nobody knows. Returns its id."""
        id = f"{self.base}#{fragment}"
        known = {name: value for name, value in properties.items() if value}
        self.all.append({"type": kind, "spdxId": id, "creationInfo": _CREATION, **known})
        return id

    def relate(self, kind: str, source: str, targets: list[str]) -> None:
        """Add a relationship; none where there is nothing to relate to."""
        if targets:
            name = f"relationship-{sum(each['type'] == 'Relationship' for each in self.all) + 1}"
            self.add("Relationship", name, relationshipType=kind, **{"from": source}, to=targets)


def _model(elements: _Elements, known: Known) -> dict[str, Any]:
    """Properties of the AI package; what nobody knows is empty, or has the format's word for it."""
    rows = [row for each in (ask.DATA_TRAINING, ask.COST_COMPUTE) if (row := known.audit.get(each)) and row.claimed]
    return {
        "name": known.name,
        "software_packageVersion": known.revision or "unversioned",
        "software_primaryPurpose": "model",
        "ai_autonomyType": "noAssertion",
        "ai_useSensitivePersonalInformation": "noAssertion",
        "software_downloadLocation": known.place,
        "suppliedBy": elements.add("Organization", "supplier", name=known.owner) if known.owner else "",
        "releaseTime": known.audit.facts.get("released"),
        "ai_hyperparameter": [
            {"type": "DictionaryEntry", "key": f"parameters.{key}", "value": str(value)}
            for key, value in known.audit.facts.get("parameters", {}).items()
        ],
        "ai_informationAboutTraining": "; ".join(row.told for row in rows),
    }


def _data(audit: Audit) -> dict[str, Any]:
    """Properties of the dataset package; empty where no training data are here or linked."""
    row = audit.get(ask.DATA_TRAINING)
    if row is None or not row.claimed:
        return {}
    return {
        "name": f"Training data of {audit.facts['name']}",
        "software_primaryPurpose": "data",
        "dataset_datasetType": ["text"],
        "dataset_hasSensitivePersonalInformation": "noAssertion",
        "software_downloadLocation": next(
            (place.quote for place in row.evidence if place.quote.startswith("https://")), ""
        ),
    }


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
