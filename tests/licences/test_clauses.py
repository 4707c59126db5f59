"""What restricts is quoted, with its line; what does not is left alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearseek.licences import Clause, lookup, restrictions
from tests.licences.examples import LLAMA_3_1, MIT, published, standard


def flags(text: str) -> set[str]:
    return {clause.flag for clause in restrictions(text)}


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "MIT": "", "BSD-2-Clause": "", "BSD-3-Clause": "", "ISC": "", "0BSD": "", "Unlicense": "", "CC0-1.0": "",
        "CC-BY-4.0": "", "PSF-2.0": "", "ODC-By-1.0": "", "PDDL-1.0": "", "CDLA-Permissive-2.0": "",
        "Apache-2.0": "patent_termination", "OpenMDW-1.0": "patent_termination", "CC-BY-NC-4.0": "non_commercial",
        "CC-BY-SA-4.0": "share_alike", "CC-BY-NC-SA-4.0": "non_commercial share_alike", "GPL-3.0-only": "share_alike",
        "GPL-2.0-only": "share_alike", "MPL-2.0": "share_alike patent_termination", "JSON": "field_of_use",
        "ODbL-1.0": "share_alike", "CDLA-Sharing-1.0": "share_alike patent_termination",
        "C-UDA-1.0": "field_of_use pass_on",
    }.items(),
)  # fmt: skip
def test_standard_licences(name: str, expected: str) -> None:
    assert flags(standard(name)) == set(expected.split())


@pytest.mark.parametrize(
    "name", ["BigScience-RAIL-1.0", "BigScience-OpenRAIL-M", "BigCode-OpenRAIL-M-1.0", "CreativeML-OpenRAIL-M"]
)
def test_the_rail_family_and_its_rows_agree(name: str) -> None:
    row = lookup(f"LicenseRef-{name}")
    found = flags(standard(f"LicenseRef-{name}"))
    assert row is not None and {"field_of_use", "patent_termination", "pass_on", "output_restriction"} <= found
    assert row.field_of_use and row.patent_termination and row.pass_on and row.output_restriction


def test_attachment_a_is_quoted_item_by_item() -> None:
    clauses = restrictions(published("deepseek-v3/LICENSE-MODEL"))
    uses = [clause for clause in clauses if clause.flag == "field_of_use" and clause.line >= 77]
    assert [clause.quote for clause in uses[:2]] == [
        "Use Restrictions",
        "You agree not to use the Model or Derivatives of the Model:",
    ]
    assert len(uses) == 2 + 11 and uses[3] == Clause("field_of_use", "For military use in any way;", 82)
    (right,) = [clause for clause in clauses if clause.flag == "remote_restriction"]
    assert right.line == 57 and "reserves the right to restrict (remotely or otherwise)" in right.quote
    assert any(
        "MUST be included as an enforceable provision" in each.quote for each in clauses if each.flag == "pass_on"
    )


def test_the_llama_family() -> None:
    found = restrictions(LLAMA_3_1)
    assert {clause.flag for clause in found} == {
        "naming_rule", "user_cap", "no_compete", "output_restriction", "geo_exclusion"
    }  # fmt: skip
    lines = LLAMA_3_1.split("\n")
    for clause in found:
        assert clause.quote.split()[0] in lines[clause.line - 1]
    assert any("700 million monthly active users" in clause.quote for clause in found if clause.flag == "user_cap")


@pytest.mark.parametrize(
    ("sentence", "flag"),
    [
        ("You agree not to use the model for surveillance.", "field_of_use"),
        ("The Software shall not be used for military purposes.", "field_of_use"),
        ("The Software shall be used for Good, not Evil.", "field_of_use"),
        ("You may use this model for non-commercial purposes only.", "non_commercial"),
        ("The Licensee shall not use Output to develop or improve other models.", "no_compete"),
        ("You must comply with the Acceptable Use Policy.", "field_of_use"),
        ('You shall display "Powered by Example" on your site.', "naming_rule"),
        ("This agreement does not apply in the European Union.", "geo_exclusion"),
        ("Licensor may restrict (remotely or otherwise) usage of the Model.", "remote_restriction"),
    ],
)
def test_sentences(sentence: str, flag: str) -> None:
    assert flag in flags(sentence)
    (clause, *_) = [each for each in restrictions(f"{MIT}\n\n{sentence}") if each.flag == flag]
    assert clause.quote == sentence and clause.line == MIT.count("\n") + 3


@pytest.mark.parametrize(
    "sentence",
    [
        "You may not use this file except in compliance with the License.",
        "The name of the author may not be used to endorse or promote products.",
        "You may not use the licensor's trademarks.",
        "You may use it for any purpose, commercial or non-commercial.",
        "This license does not limit any use.",
    ],
)
def test_harmless_sentences(sentence: str) -> None:
    assert restrictions(sentence) == ()


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["You", "shall not", "use", "the model", ":", ".", "\n- ", "\n\n", "1. ", "“", "outputs"]))
)
def test_any_arrangement_is_read(parts: list[str]) -> None:
    text = " ".join(parts)
    for clause in restrictions(text):
        assert 1 <= clause.line <= text.count("\n") + 1 and 0 < len(clause.quote) <= 300
