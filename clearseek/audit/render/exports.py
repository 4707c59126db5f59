"""The evidence in other people's forms: CycloneDX's bill, Croissant, and the YAML of two indexes.

One set of facts (:class:`Known`) feeds every form, SPDX's (:mod:`clearseek.audit.render.spdx`) too. Each form has less
room than the audit: it can say that a component is there and where, and not how far that was checked. So only what is
here or linked is exported as there, what the form has notes for says the grade, and what nobody knows is left out.
Components and dimensions are those of the views (``views.toml``). The forms: CycloneDX 1.6; Croissant 1.1; the Model
Openness Tool's ``schema/mof_schema.json``; the European index's contribution template.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5

import yaml

import clearseek
from clearseek.audit import questions as ask
from clearseek.audit.checks.data_sets import is_data
from clearseek.audit.evidence import Answer, Audit, Evidence, Grade, Question, Row
from clearseek.audit.facts import LicenceFact, PackagesFact
from clearseek.audit.views import Requirement, frameworks, view
from clearseek.data.croissant import dataset
from clearseek.errors import UserError

LICENCE_ROWS: Final = {
    "code": ask.LICENCE_CODE, "data": ask.LICENCE_WEIGHTS, "document": ask.LICENCE_DOCUMENTS,
    "datasets": ask.LICENCE_DATA,
}  # fmt: skip
"""The Model Openness Tool's types, its “data” being parameters; and data sets, which have licences of their own."""
_METADATA: Final = Requirement("Model metadata", kind="code", all=(ask.CODE_CONFIGURATION.id,))
"""A component that no class of the framework asks for."""
_NOT_LISTED: Final = frozenset(("OpenMDW-1.1",))
"""SPDX ids that are younger than the list in CycloneDX 1.6's schema."""
_CLASSES: Final[dict[Answer, str]] = {"yes": "open", "partly": "partial", "no": "closed"}
"""Classes of the European index. What is unknown has none: it is not closed."""


@dataclass(frozen=True)
class Known:
    """What the forms ask for, as far as the audit knows it."""

    audit: Audit

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.audit.facts["name"])

    @property
    def revision(self) -> str:
        """Commit, where the release was read on a hub."""
        return str(self.audit.facts.get("revision", ""))

    @property
    def owner(self) -> str:
        """Who publishes it, where it was read on a hub; a folder's place on this machine tells nothing."""
        return self.audit.subject.partition("/")[0] if self.revision else ""

    @property
    def place(self) -> str:
        """Address of the release on a hub."""
        repository = self.audit.subject.partition("@")[0]
        return f"https://huggingface.co/{repository}/tree/{self.revision}" if self.revision else ""

    @property
    def id(self) -> str:
        """UUID that follows from the release's name and the hashes of its files."""
        return f"urn:uuid:{uuid5(NAMESPACE_URL, self.audit.subject + ''.join(self.audit.files.values()))}"

    @property
    def packages(self) -> dict[str, tuple[str, str]]:
        """Package -> version and package URL of the run's software, where a file pins it and nothing contradicts it."""
        row = self.audit.get(ask.CODE_ENVIRONMENT)
        pinned = row.facts_of(PackagesFact) if row is not None and row.grade >= Grade.PRESENT else ()
        return {
            name: (version, f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(version, safe='')}")
            for each in pinned
            for name, version in each.versions.items()
        }

    def licences(self, question: Question) -> tuple[LicenceFact, ...]:
        """Licences that hold together."""
        return self.audit.facts_of(question, LicenceFact)

    def is_declared(self, question: Question) -> bool:
        """Whether a licence is no more than the publisher's word, or something here contradicts it."""
        row = self.audit[question]
        return row.grade < Grade.PRESENT or row.answer == "unknown"


def as_cyclonedx(audit: Audit, findings: bool = True) -> dict[str, Any]:
    """A CycloneDX 1.6 bill of materials: the model, its files, the packages that it was made with.

    With `findings` every row is a property of the model, with its grade.
    """
    known = Known(audit)
    model: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": known.name,
        "version": known.revision or "unversioned",
        "modelCard": {"modelParameters": {}},
    }
    if "parameters" in audit.facts:
        total = audit.facts["parameters"]["total"]
        model["modelCard"]["modelParameters"] = {"modelArchitecture": f"{total:,} parameters"}
    if findings:
        model["properties"] = [
            {"name": f"clearseek:{row.id}", "value": f"{row.answer} ({row.grade.label}): {row.reason}"} for row in audit
        ]
    if found := known.licences(ask.LICENCE_WEIGHTS):
        model["licenses"] = [_licence(each, known.is_declared(ask.LICENCE_WEIGHTS)) for each in found]
    components = [
        {
            "type": "data" if path.startswith("data/") else "file",
            "bom-ref": f"file:{path}",
            "name": path,
            "hashes": [{"alg": "SHA-256", "content": digest}],
        }
        for path, digest in audit.files.items()
    ]
    components += [
        {"type": "library", "bom-ref": purl, "name": package, "version": version, "purl": purl, "scope": "excluded"}
        for package, (version, purl) in known.packages.items()
    ]
    tool = {"type": "application", "name": "clearseek", "version": clearseek.__version__}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": known.id,
        "version": 1,
        "metadata": {"tools": {"components": [tool]}, "component": model},
        "components": components,
    }


def _licence(fact: LicenceFact, declared: bool) -> dict[str, Any]:
    """A licence by its id, a choice as an expression, and by its name what has no id that CycloneDX knows."""
    said = {"acknowledgement": "declared"} if declared else {}
    if fact.spdx_id is not None and " " in fact.spdx_id:
        return {"expression": fact.spdx_id, **said}
    listed = fact.spdx_id is not None and fact.spdx_id not in _NOT_LISTED
    return {"license": {"id" if listed else "name": fact.name, **said}}


def as_mot(audit: Audit) -> str:
    """The Model Openness Tool's YAML: the components that are here or linked, with licences and paths."""
    known, framework = Known(audit), frameworks()["mof"]
    named = {kind: _name_and_path(known.licences(question)) for kind, question in LICENCE_ROWS.items()}
    components: list[dict[str, str]] = []
    for asked in (*framework.requirements, _METADATA):
        row = _shown(audit, asked)
        if row is None:
            continue
        entry = {"name": asked.name, "description": row.told[:500]}
        ours = row.grade >= Grade.PRESENT or asked.kind == "data"  # a licence here does not cover what others publish
        if named[asked.kind][0] and ours:
            entry["license"], entry["license_path"] = named[asked.kind]
        if row.evidence:
            entry["component_path"] = _link(row.evidence[0])
        components.append(entry)
    release: dict[str, Any] = {
        "name": known.name,
        "version": known.revision[:12] or "unversioned",
        "license": {
            kind: {"name": name or None, "path": path or None}
            for kind, (name, path) in named.items()
            if kind != "datasets"
        },
        "producer": known.owner or "unknown",
        "components": components,
    }
    if released := audit.facts.get("released"):
        release["date"] = str(released)[:10]
    about = {"name": "Model Openness Framework", "version": "1.0", "date": framework.date}
    return yaml.safe_dump({"framework": about, "release": release}, sort_keys=False, allow_unicode=True)


def _shown(audit: Audit, asked: Requirement) -> Row | None:
    """The row that shows a component: here or linked, the best shown first."""
    rows = [row for id in (*(asked.all[:1] or asked.any), asked.or_linked) if id and (row := audit.get(id)) is not None]
    there = [row for row in rows if row.claimed and row.grade >= Grade.LINKED]
    return max(there, key=lambda row: row.grade, default=None)


def _name_and_path(found: tuple[LicenceFact, ...]) -> tuple[str, str]:
    """Names of the licences, and the file of the first; empty where there is none."""
    return " AND ".join(each.name for each in found), found[0].file if found else ""


def _link(place: Evidence) -> str:
    """An address, or the file's name in the release."""
    return place.quote if place.quote.startswith(("https://", "http://")) else place.file


def as_european_index(audit: Audit) -> str:
    """The European index's YAML: twelve dimensions as claimed, with the grade in each note."""
    known = Known(audit)
    link = audit.subject if known.owner else None
    content: dict[str, Any] = {
        "system": {"name": known.name, "link": link, "type": "text", "notes": ""},
        "org": {"name": known.owner, "link": "", "notes": ""},
    }
    for entry in view(audit, "osai").entries:
        row = audit.get(entry.rows[0])
        given, told = _CLASSES.get(entry.claimed), row.told if row else "not looked at"
        place = row.evidence[0] if row and row.evidence else None
        notes = told if given else f"unknown: {told}"
        content[entry.name] = {"class": given, "link": place and _link(place), "notes": notes}
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
    known, row = Known(audit), audit[ask.DATA_TRAINING]
    return dataset(
        f"{known.name} training data", f"Training data found in {known.name}. {row.told}", hashes,
        licences=[each.name for each in known.licences(ask.LICENCE_DATA)] or ["unknown"],
        citation=f"{known.name} training data, {audit.subject}", published=str(audit.facts.get("released", ""))[:10],
    )  # fmt: skip


TEXTS: Final[dict[str, Callable[[Audit], str]]] = {"mot": as_mot, "european-index": as_european_index}
