"""Other people's forms: what they hold is what the bytes prove, and their own validators accept it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from clearseek.openness.render.exports import COMPONENTS, as_cyclonedx, as_european_index, as_mot
from clearseek.openness.views import OSAI

from ..releases import audited, fixture


def test_mot_lists_what_is_there_and_nothing_else(release: Path) -> None:
    found = audited(release)
    content = yaml.safe_load(as_mot(found))
    names = {component["name"] for component in content["release"]["components"]}
    assert names <= {name for name, _, _ in COMPONENTS}
    assert "Model parameters (Final)" in names
    assert not names & {"Datasets", "Training code"}
    assert content["release"]["license"]["code"] == {"name": "MIT", "path": "LICENSE"}


def test_the_european_index_has_its_twelve_dimensions() -> None:
    content = yaml.safe_load(as_european_index(audited(fixture("deepseek-v3"), "deepseek-v3")))
    assert list(content)[2:] == [name for name, _ in OSAI]
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
