"""Other people's forms: what they hold is what the bytes prove, and their own validators accept it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml

from clearseek.audit.evidence import Audit
from clearseek.audit.render.exports import as_croissant, as_cyclonedx, as_european_index, as_mot, as_spdx
from clearseek.audit.views import frameworks
from clearseek.errors import UserError
from clearseek.licences.table import LICENCES
from tests.published import published
from tests.releases import audited, fixture


def test_mot_lists_what_is_there_and_nothing_else(release: Path) -> None:
    found = audited(release)
    content = yaml.safe_load(as_mot(found))
    names = {component["name"] for component in content["release"]["components"]}
    assert names <= {each.name for each in frameworks()["mof"].requirements} | {"Model metadata"}
    assert "Model parameters (Final)" in names
    assert not names & {"Datasets", "Training code"}
    assert content["release"]["license"]["code"] == {"name": "MIT", "path": "LICENSE"}


def test_the_european_index_has_its_twelve_dimensions() -> None:
    published("deepseek-v3/LICENSE-MODEL")
    content = yaml.safe_load(as_european_index(audited(fixture("deepseek-v3"), "deepseek-v3")))
    assert list(content)[2:] == [each.name for each in frameworks()["osai"].requirements]
    assert len(content) == 14
    assert content["weights_basemodel"]["class"] == "open"
    assert content["datasources_basemodel"]["class"] == "closed"
    assert content["trainingcode"]["class"] == "closed"
    assert content["licenses"]["class"] == "closed"


def test_the_bill_of_materials_holds_every_row_and_hash(release: Path) -> None:
    found = audited(release)
    bill = as_cyclonedx(found)
    model = bill["metadata"]["component"]
    assert [each["name"] for each in model["properties"]] == [f"clearseek:{row.id}" for row in found]
    assert model["licenses"] == [{"license": {"id": "MIT"}}]
    assert {each["name"] for each in bill["components"]} >= {"model.safetensors", "LICENSE", "config.json"}
    assert bill["serialNumber"] == as_cyclonedx(found)["serialNumber"]


def test_cyclonedx_own_validator_accepts_it(release: Path) -> None:
    validation = pytest.importorskip("cyclonedx.validation.json", reason="cyclonedx-python-lib is not installed")
    schema = pytest.importorskip("cyclonedx.schema")
    validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_6)
    assert validator.validate_str(json.dumps(as_cyclonedx(audited(release)))) is None


def test_spdx_own_model_reads_it_whole(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spdx = pytest.importorskip("spdx_python_model", reason="spdx-python-model is not installed").v3_0_1
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    (release / "data").mkdir()
    (release / "data" / "train.bin").write_bytes(b"tokens" * 20_000)
    found = audited(release)
    document = as_spdx(found)
    assert document == as_spdx(found)
    objects = spdx.SHACLObjectSet()
    spdx.JSONLDDeserializer().read(io.BytesIO(json.dumps(document).encode()), objects)  # raises at what is not SPDX
    objects.link()
    (model,) = objects.foreach_type("ai_AIPackage")
    (data,) = objects.foreach_type("dataset_DatasetPackage")
    assert model.name == "Tiny" and model.creationInfo.specVersion == "3.0.1"
    counts = {entry.key: entry.value for entry in model.ai_hyperparameter}
    assert counts["parameters.total"] == str(found.facts["parameters"]["total"])
    files = {file.name: file.verifiedUsing[0].hashValue for file in objects.foreach_type("software_File")}
    assert files == found.files and "data/train.bin" in files
    relations = {(each.relationshipType.rpartition("/")[2], each.from_, len(each.to)) for each in
                 objects.foreach_type("Relationship")}  # fmt: skip
    assert ("trainedOn", model, 1) in relations and ("contains", data, 1) in relations
    licences = [each.simplelicensing_licenseExpression for each in
                objects.foreach_type("simplelicensing_LicenseExpression")]  # fmt: skip
    assert licences == ["MIT", "MIT"], "of the model and of the data"
    rows = [each.statement.partition(":")[0] for each in objects.foreach_type("Annotation")]
    assert sorted(rows) == sorted(row.id for row in found)
    (whole,) = objects.foreach_type("SpdxDocument")
    assert "ai" not in {each.rpartition("/")[2] for each in whole.profileConformance}, "no time of release is known"
    output = io.BytesIO()
    spdx.JSONLDSerializer().write(objects, output)  # raises where a mandatory property is missing
    assert output.getvalue()


def test_a_release_seen_on_the_hub_claims_the_ai_profile_and_has_what_it_demands(release: Path) -> None:
    found = audited(release)
    revision = "0123456789abcdef0123456789abcdef01234567"
    facts = {**found.facts, "revision": revision, "released": "2025-01-20T06:07:08Z"}
    document = as_spdx(replace(found, subject=f"acme/Tiny@{revision}", facts=facts))
    by_type = {each["type"]: each for each in document["@graph"]}
    assert "ai" in by_type["SpdxDocument"]["profileConformance"]
    demanded = {"suppliedBy", "releaseTime", "software_downloadLocation", "software_packageVersion",
                "software_primaryPurpose"}  # fmt: skip
    assert demanded <= set(by_type["ai_AIPackage"])
    assert yaml.safe_load(as_mot(replace(found, facts=facts)))["release"]["date"] == "2025-01-20"


TAGS = {
    "license: mit": (("id", "MIT"), "MIT"),
    "license: apache-2.0": (("id", "Apache-2.0"), "Apache-2.0"),
    "license: other\nlicense_name: acme-terms": (("name", "acme-terms"), "LicenseRef-acme-terms"),
    "license: llama3.1": (("name", "LicenseRef-Llama-3.1"), "LicenseRef-Llama-3.1"),
    "license: [mit, apache-2.0]": (("id", "MIT"), "MIT AND Apache-2.0"),
    "license: MIT OR Apache-2.0": (("expression", "MIT OR Apache-2.0"), "MIT OR Apache-2.0"),
    "license: llama3.1 OR mit": (("name", "MIT OR LicenseRef-Llama-3.1"), "LicenseRef-MIT-OR-LicenseRef-Llama-3.1"),
    "license: openrail++": (("name", "LicenseRef-CreativeML-OpenRAIL++-M"),
                            "LicenseRef-CreativeML-OpenRAIL-plus-plus-M"),
    "license: ask us, (c) 2026 <Acme>": (("name", "ask us, (c) 2026 <Acme>"), "LicenseRef-ask-us-c-2026-Acme"),
    "license: openmdw-1.1": (("name", "OpenMDW-1.1"), "OpenMDW-1.1"),
    "license: other": (None, None),
}  # fmt: skip
"""A card's only word on its licence -> how CycloneDX gives the first, and SPDX's expression."""


@pytest.mark.parametrize("tag", TAGS)
def test_a_licence_that_only_a_tag_names_is_exported(tmp_path: Path, tag: str) -> None:
    validation = pytest.importorskip("cyclonedx.validation.json", reason="cyclonedx-python-lib is not installed")
    schema = pytest.importorskip("cyclonedx.schema")
    spdx = pytest.importorskip("spdx_python_model", reason="spdx-python-model is not installed").v3_0_1
    found = tagged(tmp_path, tag)
    first, expression = TAGS[tag]
    bill = as_cyclonedx(found)
    assert validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    given = bill["metadata"]["component"].get("licenses", [])
    said = [each.get("license") or each for each in given]
    assert first in [pair for each in said for pair in each.items()] if first else not given
    assert all(each["acknowledgement"] == "declared" for each in said)
    objects = spdx.SHACLObjectSet()
    spdx.JSONLDDeserializer().read(io.BytesIO(json.dumps(as_spdx(found)).encode()), objects)
    spdx.JSONLDSerializer().write(objects, io.BytesIO())
    licences = list(objects.foreach_type("simplelicensing_LicenseExpression"))
    assert [each.simplelicensing_licenseExpression for each in licences] == ([expression] if expression else [])
    kinds = {each.relationshipType.rpartition("/")[2] for each in objects.foreach_type("Relationship")}
    assert ("hasDeclaredLicense" in kinds) == bool(first) and "hasConcludedLicense" not in kinds
    assert yaml.safe_load(as_mot(found))["release"]["license"]["data"] == {"name": None, "path": None}


def tagged(folder: Path, tag: str) -> Audit:
    """A release of nothing but a card, whose metadata name a licence."""
    (folder / "README.md").write_text(f"---\n{tag}\n---\n# Tiny\n", encoding="utf-8")
    return audited(folder)


def test_every_licence_that_is_known_is_exported_validly(tmp_path: Path) -> None:
    validation = pytest.importorskip("cyclonedx.validation.json", reason="cyclonedx-python-lib is not installed")
    schema = pytest.importorskip("cyclonedx.schema")
    validator = validation.JsonStrictValidator(schema.SchemaVersion.V1_6)
    for licence in LICENCES:
        bill = as_cyclonedx(tagged(tmp_path, f"license: {licence.id}"))
        assert validator.validate_str(json.dumps(bill)) is None, licence.id
        (given,) = bill["metadata"]["component"]["licenses"]
        assert licence.id in given["license"].values()


def test_a_release_whose_licences_are_a_choice_or_changed_is_exported(release: Path) -> None:
    text = (release / "LICENSE").read_text(encoding="utf-8")
    (release / "LICENSE").write_text(text + "\nNot for military use.\n", encoding="utf-8")
    found = audited(release)
    assert as_cyclonedx(found)["metadata"]["component"]["licenses"] == [{"license": {"name": "modified MIT"}}]
    assert "LicenseRef-modified-MIT" in json.dumps(as_spdx(found))
    components = {each["name"]: each for each in yaml.safe_load(as_mot(found))["release"]["components"]}
    assert components["Model parameters (Final)"]["license"] == "modified MIT"
    assert components["Model parameters (Final)"]["license_path"] == "LICENSE"


def test_croissant_own_library_accepts_the_data_of_a_release(release: Path) -> None:
    croissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    (release / "data").mkdir()
    (release / "data" / "train.bin").write_bytes(b"tokens" * 20_000)
    described = as_croissant(audited(release))
    metadata = croissant.Dataset(jsonld=described).metadata
    assert not metadata.ctx.issues.errors
    assert [(each.name, each.sha256) for each in metadata.distribution] == [
        ("data/train.bin", sha256(b"tokens" * 20_000).hexdigest())
    ]


def test_croissant_of_a_release_without_data_says_so(release: Path) -> None:
    with pytest.raises(UserError, match="no files of training data"):
        as_croissant(audited(release))
    unhashed = replace(audited(release), files={})
    with pytest.raises(UserError, match="--no-hash"):
        as_croissant(unhashed)


SCHEMAS = {
    "mot": "https://raw.githubusercontent.com/lfai/model_openness_tool/main/schema/mof_schema.json",
}


@pytest.mark.net
@pytest.mark.parametrize("form", SCHEMAS)
def test_the_publishers_schema_accepts_it(form: str, release: Path, tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    try:
        with urlopen(SCHEMAS[form], timeout=5) as answer:
            schema = json.load(answer)
    except OSError as error:
        pytest.skip(f"{SCHEMAS[form]} cannot be reached: {error}")
    found = audited(release)
    validator = jsonschema.validators.validator_for(schema)(schema)
    validator.validate(yaml.safe_load(as_mot(found)))
    for tag in TAGS:
        validator.validate(yaml.safe_load(as_mot(tagged(tmp_path, tag))))
