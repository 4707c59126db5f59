"""The evidence in other people's forms: CycloneDX's bill, SPDX's document, Croissant, and the YAML of two indexes.

One set of facts feeds every form, and a template has the form's words. Each form has less room than the audit: it can
say that a component is there and where, and not how far that was checked. So only what is here or linked is exported as
there, what the form has notes for says the grade, and what nobody knows is left out. Components and dimensions are
those of the views (``views.toml``). The forms: CycloneDX 1.6; SPDX 3.0.1; Croissant 1.1; the Model Openness Tool's
``schema/mof_schema.json``; the European index's contribution template.
"""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5

import yaml

import clearseek
from clearseek.audit import questions as ask
from clearseek.audit.checks.data_sets import is_data
from clearseek.audit.evidence import Audit, Grade, Row
from clearseek.audit.facts import LicenceFact, PackagesFact
from clearseek.audit.views import Requirement, frameworks, view
from clearseek.data.croissant import dataset
from clearseek.errors import UserError
from clearseek.templates import render

_LICENCES: Final = {
    "model": ask.LICENCE_WEIGHTS, "data": ask.LICENCE_DATA, "code": ask.LICENCE_CODE,
    "document": ask.LICENCE_DOCUMENTS,
}  # fmt: skip
_KINDS: Final = {"code": "code", "data": "model", "document": "document", "datasets": "data"}
"""Kinds of the tool's components, where “data” are parameters, which name their own licence -> what has one here."""
_METADATA: Final = Requirement("Model metadata", kind="code", all=(ask.CODE_CONFIGURATION.id,))
"""A component that no class of the framework asks for."""
_NOT_LISTED: Final = ("OpenMDW-1.1",)
"""SPDX ids that are younger than the list in CycloneDX 1.6's schema."""
_CLASSES: Final = {"yes": "open", "partly": "partial", "no": "closed"}
"""Classes of the European index. What is unknown has none: it is not closed."""


def _known(audit: Audit) -> dict[str, Any]:
    """What the forms ask for, as far as the audit knows it."""
    revision, repository = str(audit.facts.get("revision", "")), audit.subject.partition("@")[0]
    data, counts = audit.row(ask.DATA_TRAINING), audit.facts.get("parameters", {})
    links = [each.quote for each in data.evidence if each.quote.startswith("https://")]
    terms = {what: audit.row(question) for what, question in _LICENCES.items()}
    return {
        "clearseek": clearseek.__version__,
        "id": f"urn:uuid:{uuid5(NAMESPACE_URL, audit.subject + ''.join(audit.files.values()))}",
        "name": str(audit.facts["name"]),
        "revision": revision,
        "owner": repository.partition("/")[0] if revision else "",  # a folder's place on this machine tells nothing
        "place": f"https://huggingface.co/{repository}/tree/{revision}" if revision else "",
        "released": str(audit.facts.get("released") or ""),
        "total": counts.get("total"),
        "settings": [
            {"type": "DictionaryEntry", "key": f"parameters.{key}", "value": str(each)} for key, each in counts.items()
        ],
        "training": "; ".join(row.told for row in (data, audit.row(ask.COST_COMPUTE)) if row.claimed),
        "data": {"link": next(iter(links), "")} if data.claimed else None,
        "files": [
            {"ref": f"file-{number}", "path": path, "sha256": digest, "purpose": "data" if is_data(path) else "file"}
            for number, (path, digest) in enumerate(audit.files.items(), 1)
        ],
        "packages": _packages(audit),
        "bases": [
            {"ref": f"base-{number}", "name": str(name)} for number, name in enumerate(audit.facts.get("bases", ()), 1)
        ],
        "licences": {what: row.facts_of(LicenceFact) for what, row in terms.items()},
        # no more than the publisher's word, or contradicted by something here
        "declared": {what for what, row in terms.items() if row.grade < Grade.PRESENT or row.answer == "unknown"},
    }


def _packages(audit: Audit) -> list[dict[str, str]]:
    """The run's software, where a file pins it and nothing contradicts it."""
    row = audit.row(ask.CODE_ENVIRONMENT)
    pinned = row.facts_of(PackagesFact) if row.grade >= Grade.PRESENT else ()
    return [
        {"ref": f"package-{name}", "name": name, "version": version,
         "purl": f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(version, safe='')}"}
        for each in pinned
        for name, version in each.versions.items()
    ]  # fmt: skip


def _place(row: Row | None) -> str | None:
    """What a row shows first: an address, or a file's name in the release."""
    if row is None or not row.evidence:
        return None
    first = row.evidence[0]
    return first.quote if first.quote.startswith(("https://", "http://")) else first.file


def _document(form: str, audit: Audit, **values: Any) -> dict[str, Any]:
    """A form's template with the facts in it."""
    text = render("clearseek.audit.render", f"{form}.json.jinja", listed, expression, **_known(audit), **values)
    return dict(json.loads(text))


def as_cyclonedx(audit: Audit, findings: bool = True) -> dict[str, Any]:
    """A CycloneDX 1.6 bill of materials: the model, its files, the packages that it was made with.

    With `findings` every row is a property of the model, with its grade.
    """
    return _document("cyclonedx", audit, rows=audit.rows if findings else ())


def listed(fact: LicenceFact, declared: bool) -> Any:
    """A licence by its id, a choice as an expression, and by its name what has no id that CycloneDX knows."""
    said = {"acknowledgement": "declared"} if declared else {}
    if fact.spdx_id is not None and " " in fact.spdx_id:
        return {"expression": fact.spdx_id, **said}
    known = fact.spdx_id is not None and fact.spdx_id not in _NOT_LISTED
    return {"license": {"id" if known else "name": fact.name, **said}}


def as_spdx(audit: Audit, findings: bool = True) -> dict[str, Any]:
    """An SPDX 3.0.1 document, with the rows as annotations if `findings`.

    Its one time stamp is ``SOURCE_DATE_EPOCH`` where that is set, and now otherwise.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    moment = datetime.fromtimestamp(int(epoch), UTC) if epoch.isdigit() else datetime.now(UTC)
    now = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    found = _document("spdx", audit, rows=audit.rows if findings else (), now=now)
    _, document, *elements = found["@graph"]
    document["element"] = [each["spdxId"] for each in elements]
    return found


def expression(found: tuple[LicenceFact, ...]) -> str:
    """The licences as an SPDX expression; what is not on SPDX's list is a LicenseRef of its name."""
    parts = []
    for each in found:
        spelt = each.name.removeprefix("LicenseRef-").replace("+", "-plus-")
        bare = re.sub(r"[^A-Za-z0-9.]+", "-", spelt).strip("-.")
        parts.append(each.spdx_id or f"LicenseRef-{bare or 'unnamed'}")
    return parts[0] if len(parts) == 1 else " AND ".join(f"({each})" if " " in each else each for each in parts)


def as_mot(audit: Audit) -> str:
    """The Model Openness Tool's YAML: the components that are here or linked, with licences and paths."""
    known, framework = _known(audit), frameworks()["mof"]
    terms: dict[str, dict[str, str | None]] = {}
    for kind, what in _KINDS.items():
        held = known["licences"][what]
        names, path = " AND ".join(each.name for each in held), held[0].file if held else ""
        terms[kind] = {"name": names or None, "path": path or None}
    components = []
    for asked in (*framework.requirements, _METADATA):
        ids = (*(asked.all[:1] or asked.any), asked.or_linked)
        rows = [row for id in ids if (row := audit.get(id)) and row.claimed and row.grade >= Grade.LINKED]
        if not rows:
            continue
        row = max(rows, key=lambda each: each.grade)
        entry: dict[str, str | None] = {"name": asked.name, "description": row.told[:500]}
        if row.grade >= Grade.PRESENT or asked.kind == "data":  # a licence here does not cover what others publish
            entry |= {"license": terms[asked.kind]["name"], "license_path": terms[asked.kind]["path"]}
        entry["component_path"] = _place(row)
        components.append({name: value for name, value in entry.items() if value})
    release = {
        "name": known["name"],
        "version": known["revision"][:12] or "unversioned",
        "license": {"code": terms["code"], "data": terms["datasets"], "document": terms["document"]},
        "producer": known["owner"] or "unknown",
        "components": components,
    }
    if known["released"]:
        release["date"] = known["released"][:10]
    about = {"name": "Model Openness Framework", "version": "1.0", "date": framework.date}
    return yaml.safe_dump({"framework": about, "release": release}, sort_keys=False, allow_unicode=True)


def as_european_index(audit: Audit) -> str:
    """The European index's YAML: twelve dimensions as claimed, with the grade in each note."""
    known = _known(audit)
    link = audit.subject if known["owner"] else None
    content: dict[str, Any] = {
        "system": {"name": known["name"], "link": link, "type": "text", "notes": ""},
        "org": {"name": known["owner"], "link": "", "notes": ""},
    }
    for entry in view(audit, "osai").entries:
        row, given = audit.get(entry.rows[0]), _CLASSES.get(entry.claimed)
        link = _place(row)
        told = row.told if row else "not looked at"
        content[entry.name] = {"class": given, "link": link, "notes": told if given else f"unknown: {told}"}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def as_croissant(audit: Audit) -> dict[str, Any]:
    """Croissant metadata of the training data. Raises UserError where there are none, or nothing was hashed."""
    if not audit.files:
        raise UserError("croissant lists files with their hashes: leave out --no-hash")
    hashes = {path: digest for path, digest in audit.files.items() if is_data(path)}
    if not hashes:
        raise UserError(f"{audit.facts['name']}: no files of training data in it, so there is nothing to describe")
    lists = ("data/documents.jsonl", "data/manifest.json", "data/README.md")
    hashes |= {path: digest for path, digest in audit.files.items() if path in lists}
    known = _known(audit)
    return dataset(
        f"{known['name']} training data",
        f"Training data found in {known['name']}. {audit[ask.DATA_TRAINING].told}", hashes,
        licences=[each.name for each in known["licences"]["data"]] or ["unknown"],
        citation=f"{known['name']} training data, {audit.subject}", published=known["released"][:10],
    )  # fmt: skip
