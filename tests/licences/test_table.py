"""The table: names lead to rows, and rows say what is open."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearseek.licences import LICENCES, is_open_for, lookup
from clearseek.licences.table import Kind, Licence, spdx

KINDS: tuple[Kind, ...] = ("code", "weights", "data", "documents")


def row(name: str) -> Licence:
    found = lookup(name)
    assert found is not None, name
    return found


@pytest.mark.parametrize(
    ("name", "id"),
    {
        "mit": "MIT", "Apache 2.0": "Apache-2.0", "apache-2.0": "Apache-2.0",
        "The Apache License, Version 2.0": "Apache-2.0", "APACHE_2.0": "Apache-2.0", "BSD-3-Clause": "BSD-3-Clause",
        "gpl-3.0": "GPL-3.0-only", "GPL v3": "GPL-3.0-only", "CC BY 4.0": "CC-BY-4.0", "cc-by-nc-4.0": "CC-BY-NC-4.0",
        "llama3.1": "LicenseRef-Llama-3.1", "Llama 3.1 Community License Agreement": "LicenseRef-Llama-3.1",
        "llama3": "LicenseRef-Llama-3", "llama2": "LicenseRef-Llama-2", "llama4": "LicenseRef-Llama-4",
        "gemma": "LicenseRef-Gemma", "deepseek": "LicenseRef-DeepSeek-1.0",
        "openrail++": "LicenseRef-CreativeML-OpenRAIL++-M",
        "PDDL-1.0": "PDDL-1.0", "ODC-PDDL-1.0": "PDDL-1.0", "OpenMDW-1.1": "OpenMDW-1.1", "Licence: MIT": "MIT",
    }.items(),
)  # fmt: skip
def test_many_spellings_one_row(name: str, id: str) -> None:
    assert row(name).id == id


@pytest.mark.parametrize("name", ["", "other", "unknown", "llama", "apache 9.0", "MITT", "cc"])
def test_what_names_no_licence_finds_none(name: str) -> None:
    assert lookup(name) is None


@given(st.text(max_size=400))
def test_any_name_is_looked_up(name: str) -> None:
    assert lookup(name) is None or lookup(name) in (*LICENCES, *spdx().values())


def test_licences_of_spdx_without_a_row_are_found() -> None:
    assert lookup("PPL") in spdx().values() and lookup("PPL") not in LICENCES


def test_ids_are_unique_and_lead_back() -> None:
    assert len({licence.id for licence in LICENCES}) == len(LICENCES)
    for licence in LICENCES:
        for name in (licence.id, licence.id.lower(), licence.name, *licence.aliases):
            assert lookup(name) is licence


@pytest.mark.parametrize(
    ("name", "open_for"),
    {
        "MIT": "code weights data documents", "Apache-2.0": "code weights data documents",
        "GPL-3.0-only": "code weights data documents", "CC0-1.0": "weights data documents",
        "CC-BY-4.0": "weights data documents", "CC-BY-SA-4.0": "weights data documents", "CC-BY-NC-4.0": "",
        "CC-BY-ND-4.0": "", "CDLA-Permissive-2.0": "weights data", "ODbL-1.0": "data", "ODC-By-1.0": "data",
        "C-UDA-1.0": "", "OpenMDW-1.0": "code weights data documents", "JSON": "", "LicenseRef-arXiv-1.0": "", 
        "PSF-2.0": "code weights data documents",
        "LicenseRef-DeepSeek-1.0": "", "LicenseRef-Llama-3.1": "", "LicenseRef-Gemma": "",
        "LicenseRef-BigScience-RAIL-1.0": "", "LicenseRef-Mistral-MRL-0.1": "", "LicenseRef-Qwen": "",
    }.items(),
)  # fmt: skip
def test_open_for_what(name: str, open_for: str) -> None:
    assert [kind for kind in KINDS if is_open_for(row(name), kind)] == open_for.split()


def test_no_restricted_licence_is_open_for_anything() -> None:
    for licence in LICENCES:
        if licence.family in ("rail", "community", "research"):
            assert licence.restricted and not licence.osi, licence.id
        if licence.restricted:
            assert not any(is_open_for(licence, kind) for kind in KINDS), licence.id
        if licence.osi:
            assert is_open_for(licence, "code"), licence.id


def test_flags_of_the_llama_family() -> None:
    assert [name for name in ("2", "3", "3.1", "3.2", "3.3", "4") if row(f"llama{name}").no_compete] == ["2", "3"]
    assert {row(f"llama{name}").user_cap for name in ("2", "3", "3.1", "4")} == {700_000_000}
    assert not row("llama2").name_prefix
    assert row("llama3").name_prefix == "Llama 3"
    assert row("llama3.2").geo_exclusion and row("llama4").geo_exclusion and not row("llama3.1").geo_exclusion
